"""Schedulers by name and options."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diffusers import EulerDiscreteScheduler

from artifacts.errors import UsageError
from runtimes.generation import Generator
from runtimes.schedulers import Schedulers, make_scheduler, parse
from tests.runtimes.conftest import Compiled

PROMPT = "a red circle"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PNDMScheduler", ("PNDMScheduler", {})),
        (" A : use_karras_sigmas=true", ("A", {"use_karras_sigmas": True})),
        ("A:x=True,y=None", ("A", {"x": True, "y": None})),
        (
            "A:algorithm_type=sde-dpmsolver++, solver_order=3",
            ("A", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
        ),
        ("A:trained_betas=[0.1, 0.2],eta=0.5", ("A", {"trained_betas": [0.1, 0.2], "eta": 0.5})),
    ],
)
def test_a_class_and_its_options(text: str, expected: tuple[str, dict[str, Any]]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["", ":a=1", "A:", "A:a", "A:a=1,b", "A:=1", "A:a=[1,2", "A:a=1;b=2,c"])
def test_what_is_no_scheduler(text: str) -> None:
    with pytest.raises(UsageError, match="is written CLASS or CLASS:OPTION=VALUE"):
        parse(text)


def test_one_option_twice() -> None:
    with pytest.raises(UsageError, match="'eta' is given twice"):
        parse("A:eta=1,eta=2")


def test_options_change_the_scheduler_and_the_rest_is_the_models(compiled: Compiled) -> None:
    made = make_scheduler(
        compiled.reference, "DPMSolverMultistepScheduler:use_karras_sigmas=true,solver_order=3"
    )
    assert (made.config.use_karras_sigmas, made.config.solver_order) == (True, 3)
    assert made.config.beta_schedule == compiled.reference.scheduler.config.beta_schedule == "scaled_linear"


def test_a_scheduler_is_made_once_and_each_call_has_a_copy_of_its_own(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(pipeline: Any, text: str) -> Any:
        made.append(text)
        return make_scheduler(pipeline, text)

    monkeypatch.setattr("runtimes.schedulers.make_scheduler", counted)
    schedulers, text = Schedulers(), "DPMSolverMultistepScheduler"
    first = schedulers.make(compiled.reference, text)
    first.set_timesteps(4)
    second = schedulers.make(compiled.reference, text)
    assert second is not first and second.num_inference_steps is None and second.config == first.config
    assert made == [text]
    schedulers.make(compiled.reference, f"{text}:solver_order=3")
    own = compiled.reference.scheduler
    monkeypatch.setattr(
        compiled.reference, "scheduler", type(own).from_config(own.config, beta_schedule="linear")
    )
    assert schedulers.make(compiled.reference, f"{text}:solver_order=3").config.beta_schedule == "linear"
    assert len(made) == 3


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("EulerScheduler", r"no scheduler 'EulerScheduler' .*DDIMScheduler, .*UniPC", ""),
        (
            "EulerDiscretScheduler",
            "no scheduler 'EulerDiscretScheduler'",
            "Did you mean 'EulerDiscreteScheduler'",
        ),
        ("StableDiffusionPipeline", "has no scheduler 'StableDiffusionPipeline'", ""),
        ("SchedulerMixin", "has no scheduler 'SchedulerMixin'", ""),
        (
            "EulerDiscreteScheduler:use_karras=true",
            r"no option 'use_karras' \(it has: num_train_timesteps, .*use_karras_sigmas",
            "Did you mean 'use_karras_sigmas'",
        ),
        ("EulerDiscreteScheduler:use_karras_sigmas=yes", "is true or false; found 'yes'", ""),
        ("EulerDiscreteScheduler:beta_start=small", "is a number; found 'small'", ""),
        ("EulerDiscreteScheduler:timestep_spacing=3", "is a text; found 3", ""),
        ("EulerDiscreteScheduler:num_train_timesteps=0", "cannot be (made|used) .*", ""),
        ("EulerDiscreteScheduler:num_train_timesteps=-5", "cannot be made .*non-negative", "other values"),
        ("EulerDiscreteScheduler:num_train_timesteps=1000000000000", "is 1000000000000; it is at most", ""),
        ("EulerDiscreteScheduler:trained_betas=[1, 1000000000000]", "is 1000000000000; it is at most", ""),
        ("DPMSolverMultistepScheduler:algorithm_type=magic", "cannot be made .*magic is not implemented", ""),
        (
            "EulerDiscreteScheduler:use_karras_sigmas=true,use_exponential_sigmas=true",
            "cannot be made .*Only one of",
            "",
        ),
        # diffusers finds these out as it draws.
        ("EulerDiscreteScheduler:timestep_spacing=odd", "EulerDiscreteScheduler cannot be used .*odd", ""),
        ("FlowMatchEulerDiscreteScheduler", "cannot be used by StableDiffusionPipeline in this call: .*", ""),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    compiled: Compiled, text: str, message: str, hint: str
) -> None:
    pipe = compiled.pipeline()
    before = pipe.generate(PROMPT, seed=1, steps=2, size=(16, 16))
    with pytest.raises(UsageError, match=message) as caught:
        pipe.generate(PROMPT, seed=1, steps=2, size=(16, 16), scheduler=text)
    assert "\n" not in caught.value.message and hint in caught.value.hint
    again = pipe.generate(PROMPT, seed=1, steps=2, size=(16, 16))
    assert np.array_equal(np.asarray(before.images[0]), np.asarray(again.images[0]))


def test_a_scheduler_whose_package_is_not_here(compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    class Dummy:
        _backends = ("torch", "torchsde")

    monkeypatch.setattr(diffusers, "DPMSolverSDEScheduler", Dummy)
    with pytest.raises(UsageError, match="needs packages that are not here: torch, torchsde") as caught:
        make_scheduler(compiled.reference, "DPMSolverSDEScheduler")
    assert caught.value.hint == "Install them: pip install torchsde"


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
def test_schedulers_that_diffusers_does_not_list_as_compatible(compiled: Compiled, name: str) -> None:
    pipe = compiled.pipeline()
    plain = pipe.generate(PROMPT, seed=1, steps=2, size=(16, 16))
    other = pipe.generate(PROMPT, seed=1, steps=2, size=(16, 16), scheduler=name)
    assert other.parameters["scheduler"] == name
    assert not np.array_equal(np.asarray(plain.images[0]), np.asarray(other.images[0]))


def test_errors_that_are_not_the_schedulers_pass_as_they_are(compiled: Compiled) -> None:
    with pytest.raises(UsageError, match="refuses this request: .*divisible by 8"):
        compiled.pipeline().generate(PROMPT, size=(20, 20), steps=1, scheduler="EulerDiscreteScheduler")


def test_a_scheduler_itself_makes_the_steps_of_one_call(compiled: Compiled) -> None:
    pipeline = compiled.pipeline()
    own = pipeline.scheduler
    drawn: dict[str, Any] = {"prompt": PROMPT, "seed": 1, "steps": 2, "size": (32, 32)}
    named = pipeline.generate(**drawn, scheduler="EulerDiscreteScheduler")
    given = EulerDiscreteScheduler.from_config(own.config)
    made = pipeline.generate(**drawn, scheduler=given)
    assert np.array_equal(np.asarray(made.images[0]), np.asarray(named.images[0]))
    assert made.parameters["scheduler"] == "EulerDiscreteScheduler"
    assert given.num_inference_steps is None and pipeline.scheduler is own


class Steps:
    """Makes steps as diffusers' do, and is none of them."""

    def set_timesteps(self) -> None: ...

    def step(self) -> None: ...


@pytest.mark.parametrize("value", [5, ["DDIMScheduler"], EulerDiscreteScheduler, object(), "DDIMScheduler"])
def test_what_is_set_and_is_no_scheduler(compiled: Compiled, value: Any) -> None:
    pipeline = compiled.pipeline()
    own = pipeline.scheduler
    with pytest.raises(UsageError, match="a scheduler is one of diffusers'; found ") as refused:
        pipeline.scheduler = value
    assert "from_config" in refused.value.hint and pipeline.scheduler is own
    if not isinstance(value, str):
        with pytest.raises(UsageError, match="a scheduler is one of diffusers'"):
            pipeline.generate(PROMPT, steps=1, size=32, scheduler=value)
    assert pipeline.generate(PROMPT, steps=1, size=32).images


def test_what_makes_steps_is_a_scheduler_and_none_takes_it_away() -> None:
    generator = Generator(SimpleNamespace(scheduler=None), {})
    generator.scheduler = mine = Steps()
    assert generator.diffusers.scheduler is generator.scheduler is mine
    generator.scheduler = None
    assert generator.scheduler is None
    with pytest.raises(UsageError, match="has no scheduler to replace"):
        Schedulers().make(generator.diffusers, Steps())
