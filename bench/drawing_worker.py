"""The side of a measurement that runs in a process of its own: an engine draws what it is asked for.

The standard library and numpy only: other projects' environments run this file too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Request:
    """One picture to draw. None is left to the pipeline's own default; `size` is (width, height) in pixels."""

    prompt: str
    seed: int
    steps: int
    guidance: float | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Drawn:
    """One picture, and where its time went.

    Attributes:
        image: uint8 [height, width, 3]; of a video [frames, height, width, 3].
        seconds: from call to picture.
        steps: seconds of each denoising step; empty where the engine does not tell.
        components: "unet.forward" -> its calls and the seconds of all of them.
        latents: float32 [steps, ...], after each step; None where the engine does not show them.
        first_step: seconds from the call to the end of the first step; None where the engine does not tell.
        calls: timesteps for which the denoiser was called, and all of them; None where none is forecast.
    """

    image: np.ndarray
    seconds: float
    steps: tuple[float, ...] = ()
    components: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    latents: np.ndarray | None = None
    first_step: float | None = None
    calls: tuple[int, int] | None = None


class Engine(Protocol):
    """Something that draws."""

    def prepare(self) -> None:
        """Imports the libraries: not counted as loading."""

    def open(self) -> dict[str, Any]:
        """Loads the model, ready to draw; returns what is known of it ("threads", "device", ...)."""

    def draw(self, request: Request) -> Drawn:
        """Draws one picture."""


def reply(engine: Engine, line: str) -> dict[str, Any]:
    """Does what one request, a line of JSON, asks for; see `artifacts.worker_loop.Work`."""
    request = json.loads(line)
    start = time.perf_counter()
    if request["do"] == "prepare":
        engine.prepare()
        return {"seconds": time.perf_counter() - start}
    if request["do"] == "open":
        figures = engine.open()
        return {"seconds": time.perf_counter() - start, **figures}
    if request["do"] != "draw":
        raise ValueError(f"no such request: {request['do']}")
    size = request["size"]
    wanted = Request(
        request["prompt"],
        request["seed"],
        request["steps"],
        request["guidance"],
        None if size is None else (size[0], size[1]),
    )
    drawn = engine.draw(wanted)
    save(Path(request["out"]), drawn)
    return {
        "seconds": drawn.seconds,
        "steps": list(drawn.steps),
        "first_step": drawn.first_step,
        "calls": None if drawn.calls is None else list(drawn.calls),
        "components": {name: list(pair) for name, pair in drawn.components.items()},
    }


def save(path: Path, drawn: Drawn) -> None:
    """Writes the arrays of `drawn`."""
    latents = np.zeros((0,), np.float32) if drawn.latents is None else drawn.latents
    np.savez(path, image=drawn.image, latents=latents)


def load(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The picture and the latents that `save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        latents = arrays["latents"]
        return arrays["image"], latents if latents.size else None
