"""What is written to a module is counted, and the module stays what it was for everybody else."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from runtimes.writes import count_writes, is_counted


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.register_buffer("table", torch.zeros(2))
        self.scale = 1.0


WRITES: dict[str, Callable[[Block], Any]] = {
    "an attribute": lambda block: setattr(block, "scale", 2.0),
    "an attribute of a submodule": lambda block: setattr(block.linear, "note", None),
    "an attribute that goes": lambda block: delattr(block, "scale"),
    "a parameter": lambda block: block.linear.register_parameter("weight", None),
    "a parameter that goes": lambda block: delattr(block.linear, "weight"),
    "a buffer": lambda block: block.register_buffer("other", torch.zeros(1)),
    "a submodule": lambda block: block.add_module("other", torch.nn.Identity()),
    "a hook": lambda block: block.linear.register_forward_hook(lambda *args: None),
    "a hook in front": lambda block: block.register_forward_pre_hook(lambda *args: None, prepend=True),
    "a class": lambda block: setattr(block, "__class__", Block),
    "a whole table": lambda block: setattr(block, "_buffers", {}),
    "items of a table": lambda block: block._buffers.update(table=None),
    "a table in place": lambda block: block._buffers.__ior__({"table": None}),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_is_counted(name: str) -> None:
    block = Block()
    writes = count_writes(block)
    WRITES[name](block)
    assert writes.count > 0


def test_reading_and_calling_is_not() -> None:
    block = Block()
    writes = count_writes(block)
    assert block.linear(torch.zeros(1, 2)).shape == (1, 2)
    assert list(block.state_dict()) == ["table", "linear.weight", "linear.bias"]
    assert isinstance(block, Block) and type(block).__name__ == "Block" and is_counted(block)
    assert not is_counted(torch.nn.Identity()) and not is_counted({})
    assert writes.count == 0
    handle = block.linear.register_forward_hook(lambda module, args, out: out + 1)
    handle.remove()
    assert writes.count == 2 and not block.linear._forward_hooks


def test_a_copy_is_not_counted_with_it() -> None:
    block = Block()
    writes = count_writes(block)
    copied = copy.deepcopy(block)
    before = writes.count
    copied._buffers.clear()
    assert writes.count == before and "table" in block._buffers
    assert type(pickle.loads(pickle.dumps(block._buffers))) is dict  # noqa: S301
