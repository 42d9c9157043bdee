"""Rewritten methods against the library's own, and recorded on tensors without values."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from compiler.export_fixes.complex_pairs import without_complex
from compiler.export_fixes.rewritten import REWRITTEN, recordable
from tests.sweep import flow

Inputs = dict[str, torch.Tensor]


def _lumina2() -> tuple[Any, Callable[[int, int, int, int], Inputs]]:
    def inputs(batch: int, height: int, width: int, words: int) -> Inputs:
        generator = torch.Generator().manual_seed(batch + height)
        lengths = torch.arange(batch).unsqueeze(1) * 2 + 3
        return {
            "hidden_states": torch.randn(batch, 4, height, width, generator=generator),
            "timestep": torch.rand(batch, generator=generator),
            "encoder_hidden_states": torch.randn(batch, words, 32, generator=generator),
            "encoder_attention_mask": (torch.arange(words) < lengths).long(),
        }

    return flow.lumina2().transformer, inputs


MODULES = {"diffusers.models.transformers.transformer_lumina2:Lumina2Transformer2DModel": _lumina2}


def test_every_rewritten_method_is_tested_here_and_says_why() -> None:
    assert set(MODULES) == set(REWRITTEN)
    assert all(entry.reason for entry in REWRITTEN.values())


@pytest.mark.parametrize("path", REWRITTEN)
def test_it_computes_what_the_original_does_and_can_be_exported(path: str) -> None:
    module, inputs = MODULES[path]()
    rewritten = recordable(copy.deepcopy(module))
    assert isinstance(rewritten, type(module)) and type(rewritten) is not type(module)
    assert type(rewritten).__qualname__ == type(module).__qualname__
    assert inspect.signature(type(rewritten).forward) == inspect.signature(type(module).forward)
    points = [inputs(2, 4, 6, 8), inputs(3, 8, 4, 11), inputs(1, 6, 6, 5)]
    for point in points:
        with torch.no_grad():
            torch.testing.assert_close(
                rewritten(**point, return_dict=False)[0],
                module(**point, return_dict=False)[0],
                rtol=1e-4,
                atol=1e-5,
            )
    auto = torch.export.Dim.AUTO
    shapes = {name: dict.fromkeys(range(tensor.ndim), auto) for name, tensor in points[0].items()}
    shapes["hidden_states"][1] = shapes["encoder_hidden_states"][2] = None
    with torch.no_grad():
        program = torch.export.export(
            rewritten,
            (),
            points[0] | {"return_dict": False},
            dynamic_shapes=shapes | {"return_dict": None},
            strict=False,
        )
        real = without_complex(program).module()
        for point in points[:2]:
            torch.testing.assert_close(
                real(**point, return_dict=False)[0],
                module(**point, return_dict=False)[0],
                rtol=1e-4,
                atol=1e-5,
            )
