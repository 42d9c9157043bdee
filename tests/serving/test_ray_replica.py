"""What a replica of a Ray Serve deployment does, and what is no deployment, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import UsageError
from artifacts.worker import WorkerEnded
from latentc.serving import ray_app, ray_engine
from latentc.serving.drawing_request import Drawing, batch_job
from latentc.serving.engine import LoadOptions
from latentc.serving.ray_engine import EngineReplica
from tests.serving.pretended import STEPS, PretendedEngine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> PretendedEngine:
    engine = PretendedEngine()
    engine.gate.set()
    monkeypatch.setattr(ray_engine, "ArtifactEngine", lambda artifact, options: engine)
    return engine


def job(prompt: str, number: int = 0) -> dict[str, Any]:
    drawing = Drawing(model="m", task="text-to-image", prompt=prompt, seeds=(7,))
    return batch_job(number, [(drawing, 0)])


async def messages(replica: EngineReplica, prompt: str) -> list[dict[str, Any]]:
    return [message async for message in replica.draw(job(prompt))]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def test_a_batch_is_told_step_by_step(engine: PretendedEngine, tmp_path: Path) -> None:
    async def test() -> None:
        replica = EngineReplica(str(tmp_path), LoadOptions())
        *events, last = await messages(replica, "a")
        assert [message["event"]["step"] for message in events] == list(range(1, STEPS + 1))
        assert last["answer"]["pictures"][0]["parameters"] == {"prompt": "a", "seed": 7}
        [refused] = await messages(replica, "refuse")
        assert refused == {"failure": ["the pipeline refuses this.", "", 2], "ended": False}
        assert (await replica.about())["tasks"] == engine.tasks

    run(test())


def test_a_process_that_ended_is_started_for_the_next_batch(engine: PretendedEngine, tmp_path: Path) -> None:
    async def test() -> None:
        replica = EngineReplica(str(tmp_path), LoadOptions())
        [ended] = await messages(replica, "crash")
        assert ended["ended"] and engine.starts == 1
        assert "answer" in (await messages(replica, "a"))[-1] and engine.starts == 2
        await messages(replica, "crash")
        assert (await replica.about())["opened"]["scheduler"] == "DDIMScheduler" and engine.starts == 3

    run(test())


def test_one_that_does_not_start_again_is_told_and_not_waited_for(
    engine: PretendedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise WorkerEnded("no such device.")

    async def test() -> None:
        replica = EngineReplica(str(tmp_path), LoadOptions())
        await messages(replica, "crash")
        monkeypatch.setattr(engine, "open", broken)
        [failed] = await messages(replica, "a")
        assert failed == {"failure": ["no such device.", "", 1], "ended": True}
        monkeypatch.setattr(engine, "open", lambda: 1 / 0)
        [failed] = await messages(replica, "a")
        assert failed["failure"][0].startswith("ZeroDivisionError")

    run(test())


def test_a_caller_that_leaves_stops_its_batch_and_the_next_is_drawn(
    engine: PretendedEngine, tmp_path: Path
) -> None:
    async def test() -> None:
        replica = EngineReplica(str(tmp_path), LoadOptions())
        engine.gate.clear()
        left = asyncio.ensure_future(anext(replica.draw(job("left", 5))))
        while not engine.batches:
            await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.wait({left})
        assert 5 in engine.cancelled
        engine.gate.set()
        assert "answer" in (await messages(replica, "a"))[-1]

    run(test())


@pytest.mark.parametrize(
    ("artifacts", "replicas"), [((), (1, 1)), (("a/x", "b/x"), (1, 1)), (("a",), (0, 1)), (("a",), (3, 2))]
)
def test_what_cannot_be_deployed_is_refused(artifacts: tuple[str, ...], replicas: tuple[int, int]) -> None:
    with pytest.raises(UsageError):
        ray_app(*artifacts, replicas=replicas)
