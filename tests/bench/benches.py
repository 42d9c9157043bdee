"""Workers that run in this process, and records that are made up."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench.drawing_worker import Drawn, Request, reply
from bench.record import (
    Bench,
    Component,
    Environment,
    Measured,
    Memory,
    Picture,
    Quality,
    Settings,
    Speed,
    Spread,
    Start,
    Variant,
)
from bench.subjects import Subject


class Local:
    """Stands for `bench.process.Worker`: an engine that is asked through the same lines of JSON."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.pid = os.getpid()

    def request(self, **request: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(reply(self.engine, json.dumps(request))))
        return found


def starter(engines: Mapping[str, Any], log: list[tuple[str, str]] | None = None) -> Any:
    """A `bench.interleaved_run.Starter` that gives each subject the engine of its name."""

    @contextmanager
    def start(subject: Subject, env: Mapping[str, str]) -> Any:
        if log is not None:
            log.append((subject.name, env["LATENTC_CACHE"]))
        yield Local(engines[subject.name])

    return start


class Scripted:
    """An engine whose pictures and times are given: `steps` is the seconds of each step."""

    def __init__(
        self, level: int = 100, steps: tuple[float, ...] = (0.1, 0.1), fail_at: int | None = None
    ) -> None:
        self.level = level
        self.steps = steps
        self.fail_at = fail_at
        self.drawn: list[Request] = []

    def prepare(self) -> None:
        pass

    def open(self) -> dict[str, Any]:
        return {"threads": 3}

    def draw(self, request: Request) -> Drawn:
        if len(self.drawn) == self.fail_at:
            raise ValueError("out of paint")
        self.drawn.append(request)
        rng = np.random.default_rng(request.seed)
        image = np.full((16, 16, 3), self.level, np.uint8) + rng.integers(0, 9, (16, 16, 3), np.uint8)
        if not self.steps:
            return Drawn(image, 0.5)
        latents = np.full((len(self.steps), 1, 4), float(self.level), np.float32)
        components = {"unet.forward": (len(self.steps), sum(self.steps) / 2)}
        return Drawn(image, sum(self.steps) + 0.5, self.steps, components, latents, 0.25 + self.steps[0])


def subject(name: str, kind: Any = "artifact", **changes: Any) -> Subject:
    given: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "about": {"target": "onnxruntime", "precision": "fp32"},
        "device": "auto",
        "bytes": 1000,
        "files": (),
        "command": (),
        **changes,
    }
    return Subject(**given)


def settings(**changes: Any) -> Settings:
    given: dict[str, Any] = {
        "prompts": ("a", "b"),
        "seeds": (0, 1),
        "steps": 2,
        "guidance": None,
        "size": None,
        "task": "text-to-image",
        "device": "auto",
        **changes,
    }
    return Settings(**given)


def spread(median: float) -> Spread:
    return Spread(median=median, low=median * 0.9, high=median * 1.1, count=4)


def begun(load: float = 1.0) -> Start:
    memory = Memory(total=800, anonymous=600, file_backed=200)
    return Start(import_s=1.0, load_s=load, first_step_s=load + 0.5, first_image_s=load + 1, memory=memory)


def variant(name: str = "out", step: float = 100.0, psnr: float = 40.0, **changes: Any) -> Variant:
    one = Measured(value=0.99, low=0.98, high=1.0, worst=0.9)
    none = Measured(reason="its weights are not on disk")
    given: dict[str, Any] = {
        "name": name,
        "kind": "artifact",
        "about": {"target": "openvino", "precision": "fp16"},
        "device": "auto",
        "bytes": 1000,
        "cold": begun(2.0),
        "warm": begun(),
        "speed": Speed(
            step_ms=spread(step),
            image_s=spread(step / 50),
            images_per_minute=3000 / step,
            components={"unet.forward": Component(calls=20, ms=spread(step * 0.9))},
            step_ratio=Measured(value=step / 200),
        ),
        "quality": Quality(
            psnr=Measured(value=psnr, low=psnr - 1, high=psnr + 1, worst=psnr - 2),
            ssim=one,
            ms_ssim=one,
            latent_error=Measured(value=0.01),
            latent_curve=(0.001, 0.01),
            broken=Measured(value=0.0),
            equal=Measured(value=0.0),
            prompt_accuracy=one,
            lpips=none,
            clip_score=none,
            fid=none,
        ),
        "pictures": (Picture(prompt=0, seed=0, seconds=2.0, step_ms=step, psnr=psnr),),
        **changes,
    }
    return Variant(**given)


def made(*variants: Variant, reference: float | None = 200.0, **changes: Any) -> Bench:
    """A record of `variants` beside a reference that takes `reference` milliseconds a step."""
    base = () if reference is None else (variant("PyTorch fp32", reference, kind="pytorch", bytes=2000),)
    return Bench(
        created="2026-01-01T00:00:00+00:00",
        command=("latentc", "bench", "out"),
        settings=settings(**changes),
        environment=Environment(
            machine="x86_64",
            processor="a processor",
            cores=2,
            logical_cores=2,
            memory=24_000,
            system="Linux",
            python="3.11.4",
            load_average=0.1,
            evicted=True,
            packages={"torch": "2.13.0"},
            variables={},
        ),
        reference=base[0].name if base else None,
        variants=(*base, *variants),
    )
