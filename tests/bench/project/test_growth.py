"""What drawing takes and leaves: tiles and parts of a real artifact, and that nothing grows."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from artifacts.errors import UsageError
from artifacts.evidence_records import MemoryUse
from artifacts.manifest import DimRange
from bench.project.growth import MEMORY, Growth, Held, grow
from bench.project.growth_threads import Together, draw_together
from bench.project.memlimit import ENTER, MIB, Group
from compiler.build import compile
from compiler.capture.capture import SizeRange
from compiler.compile_request import CompileRequest
from runtimes.memory_plan import memory_plan
from runtimes.pipeline import Pipeline, load
from tests.bench.project.test_memlimit import needs_groups

PROMPT = "a large red circle at the left on a blue background"
SIDES = DimRange(min=64, max=256)


def test_what_has_grown_is_told() -> None:
    before = Held(100 << 20, 10, 4)
    assert Growth(before, Held(before.memory + MEMORY, 10, 3)).faults == []
    grown = Growth(before, Held(before.memory + MEMORY + 1, 11, 5))
    assert [fault.partition(":")[0] for fault in grown.faults] == ["memory", "open files", "threads"]


class Drawing:
    """Draws a picture of its seed and size; in a thread other than the first one's, what `broken` makes of it."""

    def __init__(self, broken: Callable[[int], int]) -> None:
        self.broken, self.alone = broken, threading.get_ident()

    def generate(self, prompt: str, steps: int, seed: int, size: tuple[int, int]) -> SimpleNamespace:
        shown = seed if threading.get_ident() == self.alone else self.broken(seed)
        time.sleep(0.001)
        return SimpleNamespace(images=[np.full(size, shown)])


def test_threads_get_the_pictures_that_each_gets_alone() -> None:
    def drawn(broken: Callable[[int], int]) -> Together:
        pipeline: Any = Drawing(broken)
        return draw_together(pipeline, 3, 0.1, PROMPT, [(8, 8), (16, 8)])

    right = drawn(lambda seed: seed)
    assert right.pictures > 3
    assert right.faults == ()
    assert drawn(lambda seed: 0).faults[0].startswith("thread ")
    failing = drawn(lambda seed: int("none"))
    assert len(failing.faults) == 3
    assert "ValueError" in failing.faults[0]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("memory") / "out"
    compile(CompileRequest("shapes", out, "openvino", size=SizeRange(SIDES, SIDES)))
    return out


@pytest.fixture(scope="module")
def pipeline(artifact: Path) -> Iterator[Pipeline]:
    with load(artifact, compute="fp32", cache=False) as pipeline:
        yield pipeline


def drawn(pipeline: Pipeline, **options: object) -> np.ndarray:
    return np.asarray(pipeline.generate(PROMPT, steps=2, seed=1, **options).images[0])  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("side", "tile"), [(128, 64), (256, 96)])
def test_a_picture_in_tiles_is_the_whole_one(pipeline: Pipeline, side: int, tile: int) -> None:
    whole = drawn(pipeline, size=(side, side), tile="off").astype(float)
    tiled = drawn(pipeline, size=(side, side), tile=tile).astype(float)
    error = np.square((whole - tiled) / 255).mean()
    assert error == 0 or 10 * math.log10(1 / error) >= 45


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["fp32", "auto"])
def test_a_denoiser_in_parts_draws_the_same_picture(artifact: Path, compute: str) -> None:
    with load(artifact, compute=compute, cache=False) as whole:
        expected = drawn(whole, size=(64, 64))
    with load(artifact, compute=compute, cache=False, max_part="4M") as parts:
        np.testing.assert_array_equal(drawn(parts, size=(64, 64)), expected)


@pytest.mark.slow
def test_thousands_of_parts_are_refused(artifact: Path) -> None:
    with load(artifact, cache=False, max_part="1K") as parts, pytest.raises(UsageError) as refused:
        drawn(parts, size=(64, 64))
    assert "at most 64 are opened" in refused.value.message
    larger = refused.value.hint.rpartition(" ")[2]
    with load(artifact, cache=False, max_part=int(larger)) as parts:
        drawn(parts, size=(64, 64))


@pytest.mark.slow
def test_compile_measures_what_graphs_take(pipeline: Pipeline) -> None:
    for graph in pipeline.manifest.graphs:
        for evidence in graph.evidence:
            assert isinstance(evidence.memory, MemoryUse)
            sizes = [call.elements for call in evidence.memory.calls]
            assert sizes == sorted(sizes) and evidence.memory.process > 0
    plan = memory_plan(pipeline.manifest, None, process=True)
    assert plan.measured
    bytes_of_ways = [way.bytes for way in plan.ways]
    assert bytes_of_ways[0] == max(bytes_of_ways) and plan.smallest == min(bytes_of_ways)


@pytest.mark.slow
def test_nothing_grows(artifact: Path) -> None:
    growths = grow(artifact, pictures=6, loads=2, cache=False)
    assert {what: growth.faults for what, growth in growths.items()} == {"pictures": [], "loads": []}


DRAW = """
import os, sys
from artifacts.resident import Watch
with Watch(os.getpid(), 0.005) as watch:
    from runtimes.memory_plan import memory_plan
    from runtimes.pipeline import load
    side = int(sys.argv[2])
    with load(sys.argv[1], compute="fp32", cache=False, memory=sys.argv[3] if sys.argv[3:] else None) as pipeline:
        pipeline.generate("a large red circle", steps=2, seed=1, size=(side, side))
        plan = memory_plan(pipeline.manifest, None, pipeline.computes, (side, side), process=True)
print(watch.peaks().anonymous, *(way.bytes for way in plan.ways))
"""


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 256])
def test_a_process_takes_what_the_plan_says(artifact: Path, side: int) -> None:
    command = [sys.executable, "-c", DRAW, str(artifact), str(side)]
    peak, together, *_ = map(
        int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    )
    assert 0.9 * peak <= together <= 1.2 * peak, (peak, together)


LOWERED = """
import sys
from artifacts.errors import LatentcError
from runtimes.pipeline import load
with load(sys.argv[1], compute="fp32", cache=False) as pipeline:
    print("loaded", flush=True)
    sys.stdin.readline()
    for _ in range(2):
        try:
            pipeline.generate("a large red circle", steps=1, seed=1, size=(64, 64))
        except LatentcError as error:
            print(error.message)
"""


@pytest.mark.slow
@needs_groups
def test_a_limit_lowered_between_load_and_draw_is_one_line(artifact: Path, tmp_path: Path) -> None:
    with Group(4096 * MIB) as group:
        command = [
            sys.executable,
            "-c",
            ENTER,
            str(group.entry),
            sys.executable,
            "-c",
            LOWERED,
            str(artifact),
        ]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == "loaded\n"
            group.lower(4 * MIB)
            lines = process.communicate("draw\n")[0].splitlines()
        assert (process.returncode, group.kills()) == (0, 0)
    for line in lines:
        assert re.fullmatch(r"'\w+' needs .* of memory at least, and .* are free now\.", line)
    assert len(lines) == 2 and not list(tmp_path.glob("latentc-*"))


FORK = """
import os, sys
from artifacts.errors import LatentcError
from runtimes.pipeline import load

def draw(pipeline):
    return pipeline.generate("a large red circle", steps=1, seed=1).images[0].tobytes()

def forked(work):
    child = os.fork()
    if not child:
        sys.exit(0 if work() else 1)  # through the interpreter's end, which frees what is left
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def refused():
    try:
        draw(pipeline)
    except LatentcError as error:
        return "a fork of it" in error.message
    return False

def loaded_anew():
    with load(sys.argv[1], cache=False) as own:
        return draw(own) == picture

with load(sys.argv[1], cache=False) as pipeline:
    picture = draw(pipeline)
    print(forked(refused), forked(loaded_anew), int(draw(pipeline) != picture))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_may_not_use_what_was_loaded_before_and_loads_its_own(artifact: Path) -> None:
    command = [sys.executable, "-c", FORK, str(artifact)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["0", "0", "0"]
