"""Whether threads that draw from one pipeline at the same time get the pictures that each would get alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import numpy as np

from runtimes.pipeline import Pipeline

SEEDS = range(3)


@dataclass(frozen=True)
class Together:
    """What threads drew: how many pictures, and what was wrong with some, a line for each."""

    pictures: int
    faults: tuple[str, ...]


def draw_together(
    pipeline: Pipeline, threads: int, seconds: float, prompt: str, sizes: Sequence[tuple[int, int] | None]
) -> Together:
    """Draws from so many threads for so long, each picture with another seed or size than the one before it."""

    def drawn(seed: int, size: tuple[int, int] | None) -> Any:
        return np.asarray(pipeline.generate(prompt, steps=2, seed=seed, size=size).images[0])

    cases = list(product(SEEDS, sizes))
    alone = [drawn(*case) for case in cases]
    faults: list[str] = []
    drawn_by = [0] * threads
    end = time.monotonic() + seconds

    def draw(thread: int) -> None:
        for number in count(thread):
            if time.monotonic() >= end:
                return
            case = number % len(cases)
            try:
                same = np.array_equal(drawn(*cases[case]), alone[case])
            except Exception as error:
                faults.append(f"thread {thread}: {type(error).__name__}: {error}")
                return
            if not same:
                faults.append(f"thread {thread}: another picture of seed and size {cases[case]}")
            drawn_by[thread] += 1

    started = [threading.Thread(target=draw, args=(thread,)) for thread in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return Together(sum(drawn_by), tuple(faults))
