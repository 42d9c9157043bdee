from __future__ import annotations

from bench.project import quality
from bench.record import Measured
from tests.bench.benches import made, variant


def row(name: str, precision: str, worst: float, accuracy: float, compute: str = "fp32"):
    found = variant(name, about={"target": "openvino", "precision": precision, "compute": compute})
    better = found.quality.model_copy(
        update={
            "psnr": Measured(value=worst + 3, worst=worst),
            "prompt_accuracy": Measured(value=accuracy),
        }
    )
    return found.model_copy(update={"quality": better})


def test_each_precision_has_its_own_limit_and_accuracy_must_stay(monkeypatch, capsys):
    # The reference's accuracy is 0.99.
    found = made(row("fine", "bf16", 41, 0.985), row("far", "fp16", 41, 0.99), row("worse", "fp32", 70, 0.97))
    assert quality.short(found) == ["far: psnr_worst<50.0", "worse: prompt_accuracy<0.980000"]
    monkeypatch.setattr(quality, "measure", lambda *given: found)
    assert quality.main([]) == 1
    out = capsys.readouterr()
    assert "| openvino | bf16 | fp32 | 0.0 MB | 41.0 dB | 44.0 dB | 98.5% |" in out.out
    assert "Fell short: far: psnr_worst<50.0" in out.err


def test_what_is_computed_in_fewer_bits_than_it_is_stored_in_has_their_limit():
    limits = [
        quality.limit(row("a", stored, 41, 0.99, compute))
        for stored, compute in (("fp16", "bf16"), ("fp32", "bf16 (vae_decoder: fp32)"), ("bf16", "fp32"))
    ]
    assert limits == [40.0, 40.0, 40.0]


def test_what_was_not_measured_falls_short_and_is_shown_as_that(monkeypatch, capsys):
    failed = row("failed", "fp16", 60, 0.99).model_copy(update={"quality": None, "error": "out of memory"})
    found = made(row("fine", "fp16", 60, 0.99), failed)
    monkeypatch.setattr(quality, "measure", lambda *given: found)
    assert quality.main([]) == 1
    out = capsys.readouterr()
    assert "| openvino | fp16 | fp32 | 0.0 MB | not measured | not measured | not measured |" in out.out
    assert out.err.count("Fell short: failed: ") == 3
    reference = found.variants[0].model_copy(update={"quality": None, "error": "out of paint"})
    found = found.model_copy(update={"variants": (reference, *found.variants[1:])})
    assert quality.main([]) == 1
    assert "Error: PyTorch's own pictures cannot be judged: out of paint." in capsys.readouterr().err


def test_what_is_near_enough_exits_with_0(monkeypatch):
    found = made(row("fine", "fp32", 60.5, 0.99))
    monkeypatch.setattr(quality, "measure", lambda *given: found)
    assert quality.main(["--json"]) == 0
