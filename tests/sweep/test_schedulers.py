"""Stable Diffusion and XL, compiled once with DDIM, drawn with every scheduler of diffusers that PyTorch draws with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import runtimes
from artifacts.errors import UsageError
from artifacts.manifest import DimRange
from compiler.build import compile
from compiler.capture.declared_sizes import SizeRange
from compiler.compile_request import CompileRequest
from tests.sweep.models import CASES

pytestmark = pytest.mark.slow

PROMPT = "a large red circle"
STEPS = 3
GUIDANCE = 1.0
"""A denoiser that is called once a step: what schedulers do does not depend on guidance."""
TOLERANCE = 1e-3
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
# Noise that does not come from the generator, but from a seed of the scheduler's own.
SEEDED = "noise_sampler_seed"


def schedulers() -> list[str]:
    """Each class, plain and with each way to space its noise levels, as `generate` takes them."""
    texts = []
    for name in sorted(n for n in dir(diffusers) if n.endswith("Scheduler")):
        cls = getattr(diffusers, name)
        if getattr(cls, "_backends", None) or not issubclass(cls, diffusers.SchedulerMixin):
            continue
        if not hasattr(cls, "step"):
            continue
        known = inspect.signature(cls).parameters
        seed = [f"{SEEDED}=5"] if SEEDED in known else []
        for sigmas in ("", *SIGMAS):
            if not sigmas or sigmas in known:
                options = ",".join([*seed, *([f"{sigmas}=true"] if sigmas else [])])
                texts.append(f"{name}:{options}".rstrip(":"))
    return texts


@dataclass
class Both:
    """PyTorch's pipeline, and the artifact's."""

    torch: Any
    compiled: runtimes.Pipeline

    def expected(self, own: Any, text: str) -> np.ndarray | None:
        """PyTorch's picture; None where its pipeline cannot use the scheduler."""
        name, _, rest = text.partition(":")
        options = {
            k: int(v) if v.isdigit() else True for k, v in (o.split("=") for o in rest.split(",") if o)
        }
        try:
            self.torch.scheduler = getattr(diffusers, name).from_config(own.config, **options)
            generator = torch.Generator().manual_seed(3)
            drawn = self.torch(
                PROMPT,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=generator,
                output_type="np",
            )
        except Exception:
            return None
        finally:
            self.torch.scheduler = own
        return np.asarray(drawn.images[0])

    def apart(self, text: str, expected: np.ndarray) -> float:
        """The largest difference of the artifact's picture from `expected`."""
        result = self.compiled.generate(
            PROMPT, steps=STEPS, guidance=GUIDANCE, seed=3, scheduler=text, output_type="np"
        )
        picture = np.asarray(result.outputs["images"][0])
        if np.isnan(picture).tolist() != np.isnan(expected).tolist():
            return float("nan")
        return float(np.nanmax(np.abs(picture - expected), initial=0))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small take PyTorch ten times as long on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("schedulers")
    pipe = CASES[request.param].build()
    own = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.register_modules(scheduler=own)
    pipe.save_pretrained(folder / "model")
    # From the folder, whose config no longer says which of a scheduler's options were at their defaults.
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    side = DimRange(min=32, max=32)
    compile(
        CompileRequest(
            model=str(folder / "model"),
            out=folder / "out",
            target="onnxruntime",
            precision="fp32",
            size=SizeRange(width=side, height=side),
            check="none",
        )
    )
    with runtimes.load(folder / "out", device="cpu", cache=False) as pipeline:
        yield Both(pipe, pipeline)


@pytest.fixture(scope="module")
def pictures(both: Both) -> dict[str, np.ndarray | None]:
    """What PyTorch draws with each of `schedulers`."""
    own = both.torch.scheduler
    return {text: both.expected(own, text) for text in schedulers()}


def test_most_schedulers_are_compared(pictures: dict[str, np.ndarray | None]) -> None:
    drawn = {text for text, picture in pictures.items() if picture is not None}
    assert len({text.partition(":")[0] for text in drawn}) >= 20
    assert sum("sigmas" in text for text in drawn) >= 20
    assert {"LCMScheduler", "TCDScheduler", "KDPM2DiscreteScheduler", "EDMEulerScheduler"} <= drawn


def test_pictures_are_pytorchs(both: Both, pictures: dict[str, np.ndarray | None]) -> None:
    apart = {text: both.apart(text, picture) for text, picture in pictures.items() if picture is not None}
    assert {text: value for text, value in apart.items() if not value < TOLERANCE} == {}


def test_what_pytorch_cannot_use_is_refused(both: Both, pictures: dict[str, np.ndarray | None]) -> None:
    refused = [text for text, picture in pictures.items() if picture is None]
    assert "FlowMatchEulerDiscreteScheduler" in refused
    for text in refused:
        with pytest.raises(UsageError, match=f"{text.partition(':')[0]}.* cannot be") as caught:
            both.compiled.generate(PROMPT, steps=STEPS, seed=3, scheduler=text, output_type="np")
        assert "\n" not in str(caught.value.message)
