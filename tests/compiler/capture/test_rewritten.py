"""Rewritten methods against the library's own, and recorded on tensors without values."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from compiler.capture.rewritten import REWRITTEN, recordable
from compiler.export.complex_pairs import without_complex
from tests.sweep import flow

Inputs = dict[str, torch.Tensor]


def _noise(batch: int, *shape: int) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch + sum(shape)))


def _lumina2(batch: int, height: int, width: int, words: int) -> Inputs:
    lengths = torch.arange(batch).unsqueeze(1) * 2 + 3
    return {
        "hidden_states": _noise(batch, 4, height, width),
        "timestep": _noise(batch).abs(),
        "encoder_hidden_states": _noise(batch, words, 32),
        "encoder_attention_mask": (torch.arange(words) < lengths).long(),
    }


def _chroma_embedding(batch: int, height: int, width: int, words: int) -> Inputs:
    return {"timestep": _noise(batch).abs() * 1000}


@dataclass(frozen=True)
class Tested:
    """How the tests make the module and its inputs, and which axes of the inputs have one size."""

    module: Callable[[], Any]
    inputs: Callable[[int, int, int, int], Inputs]
    fixed: frozenset[tuple[str, int]] = frozenset()


MODULES: dict[str, Tested] = {
    "diffusers.models.transformers.transformer_lumina2:Lumina2Transformer2DModel": Tested(
        lambda: flow.lumina2().transformer,
        _lumina2,
        frozenset({("hidden_states", 1), ("encoder_hidden_states", 2)}),
    ),
    "diffusers.models.transformers.transformer_chroma:ChromaCombinedTimestepTextProjEmbeddings": Tested(
        lambda: flow.chroma().transformer.time_text_embed, _chroma_embedding
    ),
}


# Methods that take no tensors have a test of their own.
OTHERS = {"diffusers.models.transformers.transformer_qwenimage:QwenEmbedRope"}


def test_every_rewritten_method_is_tested_here_and_says_why() -> None:
    assert set(MODULES) | OTHERS == set(REWRITTEN)
    assert all(entry.reason for entry in REWRITTEN.values())


@pytest.mark.slow
@pytest.mark.parametrize("path", MODULES)
def test_it_computes_what_the_original_does_and_can_be_exported(path: str) -> None:
    tested = MODULES[path]
    module = tested.module()
    rewritten = recordable(copy.deepcopy(module))
    assert isinstance(rewritten, type(module)) and type(rewritten) is not type(module)
    assert type(rewritten).__qualname__ == type(module).__qualname__
    assert inspect.signature(type(rewritten).forward) == inspect.signature(type(module).forward)
    points = [tested.inputs(2, 4, 6, 8), tested.inputs(3, 8, 4, 11), tested.inputs(1, 6, 6, 5)]
    for point in points:
        _same(rewritten, module, point)
    auto = torch.export.Dim.AUTO
    dynamic = {
        name: {axis: auto for axis in range(tensor.ndim) if (name, axis) not in tested.fixed}
        for name, tensor in points[0].items()
    }
    with torch.no_grad():
        program = torch.export.export(rewritten, (), points[0], dynamic_shapes=dynamic, strict=False)
    exported = without_complex(program).module()
    for point in points[:2]:
        _same(exported, module, point)


def _same(found: Any, expected: Any, inputs: Inputs) -> None:
    with torch.no_grad():
        a, b = found(**inputs), expected(**inputs)
    if not isinstance(b, torch.Tensor):
        a, b = a.sample, b.sample
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_qwens_rotary_tables_are_the_librarys() -> None:
    from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope

    own = QwenEmbedRope(theta=10000, axes_dim=[4, 6, 6], scale_rope=True)
    for shapes in ([[(1, 4, 6)]], [[(1, 8, 4), (1, 2, 2)]], [(1, 3, 5)]):
        theirs = own(shapes, device=torch.device("cpu"), max_txt_seq_len=7)
        ours = type(recordable(own)).forward(own, shapes, device=torch.device("cpu"), max_txt_seq_len=7)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(torch.view_as_real(a), torch.view_as_real(b))
        own = QwenEmbedRope(theta=10000, axes_dim=[4, 6, 6], scale_rope=True)
