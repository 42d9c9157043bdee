"""What a call calls while it draws, callbacks and functions that are told of progress, and what those may do."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from diffusers import DDIMScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from artifacts.errors import LatentcError, UsageError
from artifacts.progress import Event
from latentc.api.keywords import reporting
from runtimes.process_lock import ProcessLock
from tests.runtimes.conftest import Compiled
from tests.runtimes.test_threads import started

DRAWN: dict[str, Any] = {"prompt": "a", "seed": 1, "steps": 2, "size": (32, 32)}


def done(work: Callable[[], object]) -> None:
    """Does `work` in a thread, which ends."""
    thread, ends = started(work)
    thread.join(60)
    assert ends == ["done"]


def test_a_callback_sets_the_scheduler_as_in_diffusers(compiled: Compiled) -> None:
    def pictures(pipe: Any) -> tuple[Any, Any]:
        other = DDIMScheduler.from_config(pipe.scheduler.config)

        def change(_: Any, step: int, *__: Any) -> dict[str, Any]:
            if step == 0:
                other.set_timesteps(3)
                pipe.scheduler = other
            return {}

        call: dict[str, Any] = {"prompt": "a", "height": 32, "width": 32, "num_inference_steps": 3}
        first = pipe(**call, output_type="np", generator=tiny_noise(), callback_on_step_end=change).images
        assert pipe.scheduler is other
        return first, pipe(**call, output_type="np", generator=tiny_noise()).images

    pipeline = compiled.pipeline()
    results: list[tuple[Any, Any]] = []
    done(lambda: results.append(pictures(pipeline)))
    before = compiled.reference.scheduler
    try:
        expected = pictures(compiled.reference)
    finally:
        compiled.reference.scheduler = before
    for made, wanted in zip(results[0], expected, strict=True):
        np.testing.assert_allclose(made, wanted, atol=1e-4)


def tiny_noise() -> Any:
    import torch

    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("through", ["callback_on_step_end", "progress"])
def test_a_pipeline_is_not_drawn_with_by_its_own_callback(compiled: Compiled, through: str) -> None:
    pipeline = compiled.pipeline()
    uses: dict[str, Callable[[], Any]] = {
        "generate": lambda: pipeline.generate(**DRAWN),
        "a call": lambda: pipeline("a", num_inference_steps=1, height=32, width=32),
    }

    def attempt(use: Callable[[], Any]) -> None:
        def nested(*_: Any) -> dict[str, Any]:
            use()
            return {}

        with pytest.raises(UsageError, match="in the middle of a call") as refused:
            pipeline.generate(**DRAWN, **{through: nested})
        assert "after the call" in refused.value.hint and "with_task" in refused.value.hint

    for use in uses.values():
        done(lambda use=use: attempt(use))  # type: ignore[misc]
    assert pipeline.generate(**DRAWN).images


def test_a_callback_draws_with_another_pipeline_of_the_same_graphs(compiled: Compiled) -> None:
    pipeline, made = compiled.pipeline(), list[Any]()
    alone = np.asarray(pipeline.generate(**DRAWN).images[0])

    def draw(event: Event) -> None:
        made.append(pipeline.with_task("text-to-image").generate(**DRAWN).images[0])

    done(lambda: made.append(pipeline.generate(**DRAWN, progress=draw).images[0]))
    assert len(made) > 2 and all(np.array_equal(np.asarray(picture), alone) for picture in made)


def test_a_lock_that_a_thread_has_already() -> None:
    lock = ProcessLock()
    with lock:
        with lock.joined(), lock.joined():
            assert not lock.acquire(blocking=False)
        with pytest.raises(UsageError, match="in the middle of a call"):
            lock.acquire()
        order: list[str] = []

        def other() -> None:
            with lock.joined():
                order.append("other")

        thread, _ = started(other)
        thread.join(0.2)
        order.append("owner")
    thread.join(20)
    assert order == ["owner", "other"]
    with lock.joined(), pytest.raises(UsageError):
        lock.acquire()
    assert lock.acquire(blocking=False)


def test_a_fork_of_the_thread_that_has_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = ProcessLock()
    with lock:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        for use in (lock.acquire, lambda: lock.joined().__enter__()):
            with pytest.raises(LatentcError, match="a fork of it"):
                use()


class Mine(Exception):
    """An error of the caller's."""


class Callback:
    """One of diffusers' kind would be asked for what it takes."""

    tensor_inputs: tuple[str, ...] = ()

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: Any) -> dict[str, Any]:
        raise self.error

    def method(self, *_: Any) -> dict[str, Any]:
        raise self.error


class DiffusersCallback(PipelineCallback):
    """As diffusers has them: it looks at their class."""

    error: Exception = Mine()

    @property
    def tensor_inputs(self) -> list[str]:
        return ["latents"]

    def callback_fn(self, *_: Any) -> dict[str, Any]:
        raise self.error


ERRORS: dict[str, Exception] = {
    "a value": ValueError("my own bug"),
    "a type": TypeError("my own bug"),
    "a key": KeyError("mine"),
    "a division": ZeroDivisionError("mine"),
    "a file": FileNotFoundError(2, "No such file", "preview.png"),
    "a scheduler's name": ValueError("EulerDiscreteScheduler of mine"),
    "an error of their own": Mine("mine"),
    "one of ours": UsageError("a refusal of another pipeline's"),
}


@pytest.mark.parametrize("through", ["callback_on_step_end", "progress"])
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_what_a_callback_raises_stays_as_it_is(compiled: Compiled, error: Exception, through: str) -> None:
    pipeline = compiled.pipeline()
    for function in (Callback(error), Callback(error).method, functools.partial(Callback(error).method, 1)):
        for scheduler in (None, "EulerDiscreteScheduler"):
            with pytest.raises(type(error)) as caught:
                pipeline.generate(**DRAWN, scheduler=scheduler, **{through: function})
            assert caught.value is error and error.__context__ is None and error.__cause__ is None
    assert pipeline.generate(**DRAWN).images


def test_what_a_callback_of_diffusers_class_raises_stays_as_it_is(compiled: Compiled) -> None:
    for callback in (DiffusersCallback(), MultiPipelineCallbacks([DiffusersCallback()])):
        with pytest.raises(Mine) as caught:
            compiled.pipeline().generate(**DRAWN, callback_on_step_end=callback)
        assert caught.value is DiffusersCallback.error


def test_what_numpy_raises_in_a_callback_stays_too(compiled: Compiled) -> None:
    with pytest.raises(ValueError, match="reshape"):
        compiled.pipeline().generate(**DRAWN, progress=lambda _: np.zeros(3).reshape(2))


def test_what_diffusers_raises_beside_a_callback_is_a_refusal(compiled: Compiled) -> None:
    def callback(*_: Any) -> dict[str, Any]:
        return {}

    with pytest.raises(UsageError, match="refuses this request: TypeError"):
        compiled.pipeline().generate(**DRAWN, eta="x", callback_on_step_end=callback, progress=lambda _: None)


def test_a_file_that_progress_of_other_work_does_not_find() -> None:
    error = FileNotFoundError(2, "No such file", "log.txt")
    with pytest.raises(FileNotFoundError) as caught, reporting(Callback(error)) as progress:
        progress(Event("work", 0, 1))
    assert caught.value is error
    with pytest.raises(LatentcError, match="weights cannot be used"), reporting(lambda _: None):
        raise FileNotFoundError(2, "No such file", "weights")
