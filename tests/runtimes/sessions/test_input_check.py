from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from artifacts.errors import LatentcError
from artifacts.manifest import TensorSpec
from runtimes.sessions import common
from runtimes.sessions.common import InputCheck

SPECS = {
    "sample": TensorSpec(name="sample", dtype="float32", shape=("batch", 4)),
    "timestep": TensorSpec(name="timestep", dtype="int64", shape=()),
}


def inputs(batch: int = 2, **changes: Any) -> dict[str, np.ndarray]:
    return {"sample": np.zeros((batch, 4), np.float32), "timestep": np.array(1), **changes}


def test_inputs_of_one_form_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    check_inputs = common.check_inputs

    def counted(arrays: Any, specs: Any, name: str) -> None:
        looks.append(len(arrays["sample"]))
        check_inputs(arrays, specs, name)

    monkeypatch.setattr(common, "check_inputs", counted)
    check = InputCheck(SPECS, "unet")
    for batch in (2, 2, 2, 3, 3):
        check.check("session", inputs(batch))
    assert looks == [2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample": np.zeros((2, 4), np.float64)}, "takes 'sample' as float32"),
        ({"sample": np.zeros((2, 5), np.float32)}, "takes 'sample' as float32"),
        ({"timestep": np.array([1])}, "takes 'timestep' as int64"),
        ({"other": np.array(1)}, r"not its own: \['other'\]"),
    ],
)
def test_others_are_refused_each_time(changes: dict[str, np.ndarray], message: str) -> None:
    check = InputCheck(SPECS, "unet")
    check.check("session", inputs())
    for _ in range(2):
        with pytest.raises(LatentcError, match=message):
            check.check("session", inputs(**changes))
    with pytest.raises(LatentcError, match="is closed"):
        check.check(None, inputs())
