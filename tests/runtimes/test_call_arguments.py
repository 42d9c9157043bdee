from __future__ import annotations

import functools
from typing import Any

import pytest

from artifacts.errors import LatentcError
from runtimes.call_arguments import bind, defaults, signature


def decorated(method: Any) -> Any:
    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs)

    return wrapper


class Module:
    def forward(self, sample: Any, timestep: Any, *rest: Any, scale: float = 1.0, **kwargs: Any) -> None: ...

    @decorated
    def decode(self, z: Any, return_dict: bool = True) -> None: ...

    weight = 3


def test_arguments_by_name_with_defaults() -> None:
    assert bind(Module, "forward", (1, 2, 3, 4), {"x": 5}) == {
        "sample": 1,
        "timestep": 2,
        "rest": (3, 4),
        "scale": 1.0,
        "kwargs": {"x": 5},
    }
    assert bind(Module, "forward", (), {"timestep": 2, "sample": 1})["rest"] == ()
    assert defaults(Module, "forward") == {"rest": (), "scale": 1.0, "kwargs": {}}


def test_decorators_are_seen_through() -> None:
    assert list(signature(Module, "decode").parameters) == ["z", "return_dict"]


def test_real_methods() -> None:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    assert list(bind(AutoencoderKL, "decode", (1, False), {})) == ["z", "return_dict", "generator"]
    found = bind(CLIPTextModel, "forward", (1,), {"output_hidden_states": True})
    assert found["input_ids"] == 1
    assert found["kwargs"] == {"output_hidden_states": True}


def test_wrong_calls() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'timestep'"):
        bind(Module, "forward", (1,), {})
    for name in ("nothing", "weight"):
        with pytest.raises(LatentcError, match=f"has no method '{name}'"):
            signature(Module, name)
