"""Tiny diffusers modules, exported as the compiler exports: fake, dynamic, weights left on disk."""

from __future__ import annotations

import json
import math
import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from targets.graph.weights import Stored, WeightRef

_TYPES = {"F32": ir.DataType.FLOAT, "I64": ir.DataType.INT64}


@dataclass(frozen=True)
class Case:
    """A module, how it is called, which axes are dynamic, and sizes that it was not exported at."""

    build: Callable[[], torch.nn.Module]
    call: Callable[..., Any]
    inputs: Sequence[tuple[tuple[int, ...], torch.dtype]]
    axes: Sequence[tuple[int, ...]]
    other: Sequence[tuple[int, ...]]


class _Called(torch.nn.Module):
    def __init__(self, module: torch.nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.m = module
        self._call = call

    def forward(self, *args: torch.Tensor) -> Any:
        return self._call(self.m, *args)


def unet() -> Case:
    def build() -> torch.nn.Module:
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=2,
            norm_num_groups=4,
        )

    return Case(
        build,
        lambda m, s, t, e: m(s, t, e, return_dict=False)[0],
        [((2, 4, 16, 16), torch.float32), ((), torch.int64), ((2, 7, 24), torch.float32)],
        [(0, 2, 3), (), (0, 1)],
        [(3, 4, 8, 12), (), (3, 5, 24)],
    )


def flux() -> Case:
    def build() -> torch.nn.Module:
        from diffusers import FluxTransformer2DModel

        return FluxTransformer2DModel(
            in_channels=8,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=12,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )

    f = torch.float32
    return Case(
        build,
        lambda m, x, e, p, t, i, j, g: m(x, e, p, t, i, j, g, return_dict=False)[0],
        [((2, 9, 8), f), ((2, 5, 24), f), ((2, 12), f), ((2,), f), ((9, 3), f), ((5, 3), f), ((2,), f)],
        [(0, 1), (0, 1), (0,), (0,), (0,), (0,), (0,)],
        [(3, 12, 8), (3, 6, 24), (3, 12), (3,), (12, 3), (6, 3), (3,)],
    )


def text_encoder() -> Case:
    def build() -> torch.nn.Module:
        from transformers import CLIPTextConfig, CLIPTextModel

        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            )
        )

    return Case(
        build,
        lambda m, x: m(x, return_dict=False)[0],
        [((2, 77), torch.int64)],
        [(0,)],
        [(3, 77)],
    )


def vae_decoder() -> Case:
    def build() -> torch.nn.Module:
        from diffusers import AutoencoderKL

        return AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
        )

    return Case(
        build,
        lambda m, z: m.decode(z, return_dict=False)[0],
        [((2, 4, 8, 8), torch.float32)],
        [(0, 2, 3)],
        [(3, 4, 6, 5)],
    )


CASES: dict[str, Callable[[], Case]] = {
    "unet": unet,
    "flux": flux,
    "text_encoder": text_encoder,
    "vae_decoder": vae_decoder,
}


def export(case: Case, folder: Path) -> tuple[ir.Model, torch.nn.Module]:
    """The graph, its weights on disk in `folder`, and the real module that they came from."""
    torch.manual_seed(0)
    real = _Called(case.build().eval(), case.call)
    file = folder / "model.safetensors"
    save_file({k: v.clone().contiguous() for k, v in real.state_dict().items()}, file)
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        warnings.simplefilter("ignore")
        fake = _Called(case.build().eval(), case.call)
        inputs = tuple(torch.empty(shape, dtype=dtype) for shape, dtype in case.inputs)
        dims = tuple(dict.fromkeys(axes, torch.export.Dim.AUTO) for axes in case.axes)
        program = torch.export.export(fake, inputs, dynamic_shapes=(dims,), strict=False)
        exported = torch.onnx.export(program, dynamo=True, optimize=False, opset_version=21, verbose=False)
    assert exported is not None
    model = exported.model
    bind(model, file, dict(real.named_buffers()))
    return model, real


def bind(model: ir.Model, file: Path, buffers: dict[str, torch.Tensor]) -> None:
    """Fake initializers become references into a file; buffers that it does not have become constants."""
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if isinstance(getattr(tensor, "raw", None), FakeTensor):
            if name not in header:
                value.const_value = ir.Tensor(buffers[name].numpy(), name=name)
                continue
            entry = header[name]
            begin, end = entry["data_offsets"]
            stored = Stored(
                file, name, _TYPES[entry["dtype"]], tuple(entry["shape"]), 8 + size + begin, end - begin
            )
            assert math.prod(stored.shape) * 4 == stored.nbytes or stored.dtype == ir.DataType.INT64
            value.const_value = WeightRef(stored, (), name)


def feeds(case: Case, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Random inputs of the given shapes; small integers for integer inputs."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(1, 60, shape).astype(np.int64)
        if dtype == torch.int64
        else rng.standard_normal(shape).astype(np.float32)
        for shape, (_, dtype) in zip(shapes, case.inputs, strict=False)
    ]
