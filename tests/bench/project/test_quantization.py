"""The table of weight schemes: what it holds artifacts to, and how it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.project.quantization import AUTO, LIMITS, SPECS, Row, failures, table, takes

GOOD = Row("openvino", "unet=int4", 3_000_000, 4.25, 2_000_000, 2_010_000, 41.2, 37.0, 0.991, 0.94, 5.0)


def test_good_rows_pass():
    assert failures([GOOD, replace(GOOD, spec="unet=nf4"), replace(GOOD, spec="int4", psnr=10)], 0.95) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"psnr": 35.9}, "openvino unet=int4: mean PSNR 35.9 dB, at least 36 wanted"),
        ({"accuracy": 0.92}, "openvino unet=int4: prompt accuracy 92.0%, PyTorch's is 95.0%"),
        ({"data": 2_100_000}, "openvino unet=int4: 2100000 bytes of weights, 2000000 by their bits"),
        ({"spec": "unet=int8", "psnr": 51.0}, "openvino unet=int8: mean PSNR 51.0 dB, at least 52 wanted"),
    ],
)
def test_what_fails_is_named(change, said):
    assert failures([replace(GOOD, **change)], 0.95) == [said]


def test_onnx_files_are_not_held_to_their_bits():
    assert failures([replace(GOOD, target="onnxruntime", data=2_500_000)], 0.95) == []


def test_the_table():
    text = table([GOOD, replace(GOOD, spec="", bits=None)], 0.95, 200)
    assert "| openvino | `unet=int4` | 3.00 MB | 4.25 | 41.2 dB | 37.0 | 0.9910 | 94.0% | 5.0 |" in text
    assert "| openvino | (fp16) | 3.00 MB | - |" in text
    assert max(map(len, text.splitlines())) <= 120


def test_every_limit_is_of_a_row_and_every_row_is_a_spec():
    from compiler.quantize.recipe import read

    assert set(LIMITS) <= set(SPECS)
    for spec in filter(None, SPECS):
        read(spec.removeprefix(AUTO))
        assert not spec.startswith(AUTO) or SPECS.index(spec.removeprefix(AUTO)) < SPECS.index(spec)


def test_auto_is_held_to_what_it_has_the_size_of():
    uniform, auto = replace(GOOD, spec="nf4", psnr=40.0), replace(GOOD, spec="auto=nf4", psnr=42.9)
    assert failures([uniform, auto], 0.95) == ["openvino auto=nf4: 42.9 dB, nf4 has 40.0 at the same size"]
    assert failures([uniform, replace(auto, psnr=43.0)], 0.95) == []
    assert "| `auto`, size of `nf4` |" in table([auto], 0.95, 5)


def test_a_method_is_measured_where_a_target_takes_it():
    assert takes("openvino", "unet=int4:method=gptq")
    assert not takes("onnxruntime", "unet=int4:method=gptq")
    for spec in ("", "unet=int4", "auto=int4:small=0"):
        assert takes("onnxruntime", spec)
