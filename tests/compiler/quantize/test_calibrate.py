"""The compiler's side of a calibration: what it makes of the measured activations."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from artifacts.errors import LatentcError
from artifacts.progress import silent
from compiler.quantize import calibrate


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_ranges_of_what_is_not_finite_are_not_measured(tmp_path, monkeypatch, bad):
    taps = np.ones((2, 6), np.float32)
    file = tmp_path / "taps.npy"
    job = SimpleNamespace(
        result=file,
        evaluation=SimpleNamespace(prompts=("a",)),
        component=SimpleNamespace(name="unet"),
        graph=SimpleNamespace(precision="fp16"),
    )
    monkeypatch.setattr(calibrate, "_run", lambda *_: np.save(file, taps))
    assert np.array_equal(calibrate.taps(job, silent), taps)
    taps[1, 4] = bad
    with pytest.raises(
        LatentcError, match="of 'unet' cannot be measured: some are not finite in fp16"
    ) as caught:
        calibrate.taps(job, silent)
    assert "--quantize unet=int8" in caught.value.hint
