"""The queue: bounded, fair, in batches; and what becomes of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from latentc.serving.api_error import ApiError
from latentc.serving.drawing_job import DrawingJob
from latentc.serving.drawing_request import Drawing, ImageRequest
from latentc.serving.queue import DrawQueue, Turn
from latentc.serving.request_limits import Limits
from latentc.serving.service import Service
from tests.serving.pretended import PretendedEngine


def drawing(prompt: str = "a", pictures: int = 1, **changes: Any) -> Drawing:
    return Drawing(model="m", task="text-to-image", prompt=prompt, seeds=tuple(range(pictures)), **changes)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def names(turns: list[Turn]) -> list[tuple[str, int]]:
    return [(turn.job.drawing.prompt or "", turn.picture) for turn in turns]


def test_clients_take_turns_whatever_each_of_them_sent() -> None:
    async def test() -> None:
        queue = DrawQueue(100)
        for number in range(10):
            await queue.submit("greedy", drawing(f"g{number}"))
        await queue.submit("modest", drawing("m0"))
        await queue.submit("third", drawing("t0", pictures=2))
        order = [names(await queue.take("m", 1))[0][0] for _ in range(6)]
        assert order == ["g0", "m0", "t0", "g1", "t0", "g2"]

    run(test())


def test_there_is_room_for_a_client_however_many_the_others_send() -> None:
    async def test() -> None:
        queue = DrawQueue(12)
        for client in ("first", "second"):
            with pytest.raises(ApiError) as full:
                for _ in range(1000):
                    await queue.submit(client, drawing())
            assert full.value.status == 429 and int(full.value.headers["Retry-After"]) >= 1
        assert queue.waiting < 12
        await queue.submit("late", drawing())

    run(test())


def test_a_batch_is_of_one_kind_and_of_several_clients() -> None:
    async def test() -> None:
        queue = DrawQueue(100)
        await queue.submit("x", drawing("x", pictures=3))
        await queue.submit("y", drawing("y", steps=9))
        await queue.submit("y", drawing("z"))
        assert names(await queue.take("m", 4)) == [("x", 0), ("z", 0), ("x", 1), ("x", 2)]
        assert names(await queue.take("m", 4)) == [("y", 0)]
        assert queue.waiting == 0

    run(test())


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (8, 8)}, {"steps": 2}, {"guidance": 1.0}, {"scheduler": "X"}, {"strength": 0.5}, {"image": b"1"},
        {"mask": b"1"}, {"previews": 1}, {"negative_prompt": "b"},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_what_one_call_cannot_draw_is_of_two_batches(changes: dict[str, Any]) -> None:
    assert drawing(**changes).batch_key != drawing().batch_key
    assert drawing("b", file_format="jpeg", pictures=2).batch_key == drawing().batch_key


def test_a_position_counts_whoever_is_drawn_before() -> None:
    async def test() -> None:
        queue = DrawQueue(100)
        jobs = [await queue.submit("a", drawing(pictures=2)) for _ in range(3)]
        other = await queue.submit("b", drawing())
        assert [queue.position(job) for job in jobs] == [1, 3, 5]
        assert queue.position(other) == 1
        queue.measured("m", 2.0)
        assert queue.seconds_left(other) == 4.0
        queue.drop(jobs[0])
        assert queue.position(jobs[1]) == 1

    run(test())


def test_a_queue_that_stops_finishes_what_was_begun() -> None:
    async def test() -> None:
        queue = DrawQueue(100)
        begun = await queue.submit("a", drawing(pictures=2))
        await queue.take("m", 1)
        left = await queue.submit("a", drawing())
        assert await queue.stop() == [left]
        assert left.state == "failed" and left.error is not None and left.error.status == 503
        assert names(await queue.take("m", 9)) == [("a", 1)] and not begun.ended
        assert await queue.take("m", 9) == []
        with pytest.raises(ApiError, match="stopping"):
            await queue.submit("a", drawing())

    run(test())


# --- with an engine ------------------------------------------------------------------------------


async def drawn(engine: PretendedEngine, *prompts: str, limits: Limits | None = None) -> list[DrawingJob]:
    """The jobs of these prompts, each of a client of its own, when all have ended."""
    service = Service([engine], limits or Limits())
    jobs = [
        await service.submit(f"c{i}", ImageRequest(prompt=prompt, seed=i)) for i, prompt in enumerate(prompts)
    ]
    running = asyncio.create_task(service.run())
    for job in jobs:
        async for _ in job.changes():
            pass
    await service.stop()
    await running
    return jobs


def opened() -> PretendedEngine:
    engine = PretendedEngine()
    engine.gate.set()
    return engine


def test_requests_of_one_kind_are_one_batch() -> None:
    async def test() -> None:
        engine = opened()
        jobs = await drawn(engine, *"abcdef")
        assert engine.batches == [list("abcd"), list("ef")]
        assert [job.pictures[0].parameters for job in jobs] == [
            {"prompt": prompt, "seed": seed} for seed, prompt in enumerate("abcdef")
        ]

    run(test())


def test_what_is_wrong_with_one_request_is_no_other_s() -> None:
    async def test() -> None:
        engine = opened()
        jobs = await drawn(engine, "a", "refuse", "b")
        assert [job.state for job in jobs] == ["succeeded", "failed", "succeeded"]
        assert jobs[1].error is not None and jobs[1].error.status == 400
        assert engine.starts == 1

    run(test())


def test_an_engine_that_ends_is_started_again() -> None:
    async def test() -> None:
        engine = opened()
        jobs = await drawn(engine, "crash", "a")
        assert [job.state for job in jobs] == ["failed", "succeeded"]
        assert jobs[0].error is not None and jobs[0].error.status == 500
        assert "SIGSEGV" in jobs[0].error.message
        assert engine.starts == 3  # at first, after the batch of both, and after the culprit alone

    run(test())


def test_a_batch_that_takes_too_long_is_stopped() -> None:
    async def test() -> None:
        engine = PretendedEngine()
        [job] = await drawn(engine, "a", limits=Limits(seconds=0.1))
        assert job.error is not None and job.error.status == 504
        assert len(engine.cancelled) == 1

    run(test())


def test_a_job_that_is_cancelled_leaves_the_others_of_its_batch_alone() -> None:
    async def test() -> None:
        engine = PretendedEngine()
        service = Service([engine], Limits())
        jobs = [await service.submit("c", ImageRequest(prompt=prompt)) for prompt in "ab"]
        running = asyncio.create_task(service.run())
        while not engine.batches:
            await asyncio.sleep(0.01)
        service.cancel(jobs[0])
        assert not engine.cancelled
        engine.gate.set()
        assert len(await jobs[1].result()) == 1
        with pytest.raises(ApiError, match="cancelled"):
            await jobs[0].result()
        await service.stop()
        await running

    run(test())
