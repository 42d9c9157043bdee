"""Round trips equal to other projects' quantizers on the same settings. Skipped where they are not installed."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.quantize import scheme_table
from compiler.quantize.nf4 import TABLE

RNG = np.random.default_rng(5)
WEIGHT = (RNG.standard_normal((48, 256)) * RNG.uniform(0.01, 1, (48, 1))).astype(np.float32)


def restored(scheme: str, **options: object) -> np.ndarray:
    given = scheme_table.options(scheme, options)
    return scheme_table.get(scheme).dequantize(scheme_table.get(scheme).quantize(WEIGHT, given), given)


def quantized(scheme: str, **options: object) -> np.ndarray:
    return scheme_table.get(scheme).quantize(WEIGHT, scheme_table.options(scheme, options)).values


def test_int8_is_onnxruntimes():
    utils = pytest.importorskip("onnxruntime.quantization.quant_utils")
    import onnx

    scale = np.empty(len(WEIGHT), np.float32)
    values = np.empty(WEIGHT.shape, np.int8)
    for i, row in enumerate(WEIGHT):
        _zero, scale[i], values[i] = utils.quantize_data(row, onnx.TensorProto.INT8, True)
    assert np.array_equal(quantized("int8"), values)
    assert np.array_equal(restored("int8"), values * scale[:, None])


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_int4_is_onnxruntimes(group, asymmetric):
    bits = pytest.importorskip("onnxruntime.capi._pybind_state")
    if not hasattr(bits, "quantize_matmul_4bits"):
        pytest.skip("this onnxruntime has no quantize_matmul_4bits")
    rows, inner = WEIGHT.shape
    blocks = inner // group
    packed = np.zeros((rows, blocks, group // 2), np.uint8)
    scale = np.zeros(rows * blocks, np.float32)
    zero = np.zeros(rows * ((blocks + 1) // 2), np.uint8)
    bits.quantize_matmul_4bits(
        packed, np.ascontiguousarray(WEIGHT.T), scale, zero, group, rows, inner, not asymmetric
    )
    values = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, blocks, group).astype(np.float32)
    if asymmetric:
        pairs = zero.reshape(rows, -1)
        zeros = (
            np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(rows, -1)[:, :blocks, None].astype(np.float32)
        )
    else:
        zeros = np.float32(8)
    theirs = ((values - zeros) * scale.reshape(rows, blocks, 1)).reshape(rows, inner)
    ours = restored("int4", group=group, asymmetric=asymmetric, scale="max", scales="fp32")
    # Their division is a multiplication with the reciprocal: an element between two levels may go the other way.
    same = np.isclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert same.mean() > 0.999
    step = np.repeat(np.abs(scale.reshape(rows, blocks)), group, axis=1)
    assert (np.abs(ours - theirs) <= step * 1.001).all()


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("mode", "asymmetric"), [("INT4_SYM", False), ("INT4_ASYM", True)])
def test_int4_is_nncfs(group, mode, asymmetric):
    pytest.importorskip("nncf")
    from nncf.parameters import CompressWeightsMode
    from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
    from nncf.quantization.algorithms.weight_compression.weight_lowering import (
        integer_quantize_dequantize_weight,
    )
    from nncf.tensor import Tensor

    config = WeightCompressionConfig(mode=getattr(CompressWeightsMode, mode), group_size=group)
    theirs = integer_quantize_dequantize_weight(Tensor(WEIGHT), config, reduction_axes=1).data.reshape(
        WEIGHT.shape
    )
    ours = restored("int4", group=group, asymmetric=asymmetric, scale="max", scales="fp32")
    assert np.isclose(ours, theirs, rtol=1e-5, atol=1e-7).mean() > 0.999


def test_int8_asymmetric_is_nncfs():
    pytest.importorskip("nncf")
    from nncf.parameters import CompressWeightsMode
    from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
    from nncf.quantization.algorithms.weight_compression.weight_lowering import (
        integer_quantize_dequantize_weight,
    )
    from nncf.tensor import Tensor

    config = WeightCompressionConfig(mode=CompressWeightsMode.INT8_ASYM)
    theirs = integer_quantize_dequantize_weight(Tensor(WEIGHT), config, reduction_axes=1).data.reshape(
        WEIGHT.shape
    )
    assert np.isclose(restored("int8", asymmetric=True), theirs, rtol=1e-5, atol=1e-7).mean() > 0.999


def test_nf4_is_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    import torch

    packed, state = functional.quantize_4bit(torch.from_numpy(WEIGHT), blocksize=64, quant_type="nf4")
    assert np.array_equal(state.code.numpy(), TABLE)
    flat = packed.numpy().reshape(-1)
    theirs = np.stack([flat >> 4, flat & 15], axis=-1).reshape(WEIGHT.shape)
    assert np.array_equal(quantized("nf4", scales="fp32"), theirs)
    back = functional.dequantize_4bit(packed, state).numpy()
    assert np.allclose(restored("nf4", scales="fp32"), back, rtol=1e-6, atol=0)
