"""An engine that draws, fails and dies as it is asked to; a worker of its own process."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

import numpy as np

from artifacts.errors import UsageError
from artifacts.worker_loop import Work
from bench.drawing_worker import Drawn, Request, reply


class Engine:
    """Draws one colour, the seed's."""

    def prepare(self) -> None:
        print("a library says hello")

    def open(self) -> dict[str, Any]:
        raise UsageError("no device 'gpu.9' here.", "See: latentc targets")

    def draw(self, request: Request) -> Drawn:
        if request.prompt == "bug":
            raise KeyError("oops")
        if request.prompt == "die":
            print("last words", file=sys.stderr)
            sys.stderr.flush()
            os._exit(3)
        if request.prompt == "memory":
            self.held = b"1" * (64 << 20)
        assert request.size is not None
        image = np.full((*request.size, 3), request.seed, np.uint8)
        return Drawn(image, 1.5, (0.5, 0.25), {"unet.forward": (2, 0.5)}, np.ones((2, 4), np.float32))


def drawing() -> Work:
    """The work of the process."""
    return partial(reply, Engine())
