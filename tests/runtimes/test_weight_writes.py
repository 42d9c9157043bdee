"""What is written to a shell's weights while a pipeline is called, which may set what it likes until it calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from artifacts.errors import LatentcError
from runtimes.changes import changes_of
from tests.runtimes.conftest import Compiled
from tests.runtimes.test_shell import call, shell

WRITES: dict[str, Callable[[Any], Any]] = {
    "in place": lambda weight: weight.add_(1),
    "through a view": lambda weight: weight.view(-1)[:2].fill_(0),
    "through one of several views": lambda weight: weight.chunk(2)[0].zero_(),
    "in a list": lambda weight: torch._foreach_add_([weight], 1),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_weight_that_a_pipeline_writes_to_is_seen(compiled: Compiled, write: str) -> None:
    made = shell(compiled, "unet")
    call(made)

    with changes_of(made).suspended(), torch.no_grad():
        WRITES[write](made.conv_in.weight)
        with pytest.raises(LatentcError, match=r"conv_in\.weight: expected"):
            call(made)


def test_no_tensor_is_looked_at_before_a_call(compiled: Compiled) -> None:
    made = shell(compiled, "unet")
    call(made)
    assert sum(1 for _ in made.parameters()) > 50
    assert made._latentc_watch._last._tensors == []
