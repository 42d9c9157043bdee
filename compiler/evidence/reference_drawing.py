"""What PyTorch's pipelines draw, one small picture of two steps for each task, with every call of a component kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from artifacts.error_text import class_and_line
from artifacts.errors import LatentcError
from artifacts.manifest import Manifest
from compiler.capture.arguments import STEPS, Point, arguments, parse_arguments, retries
from compiler.evidence.component_calls import Calls
from compiler.evidence.drawing_jobs import PipelineJob
from compiler.evidence.metrics import undefined
from compiler.evidence.output_arrays import arrays_in

DRAWN_STEPS = 2


@dataclass(frozen=True)
class Reference:
    """One task as PyTorch draws it.

    Attributes:
        keywords: what the pipeline was called with, but for generators.
        outputs: the arrays that it returned, by their place in its output.
        calls: what it asked of components, and what they gave back.
        reason: why there is nothing to compare with; empty where there is.
    """

    keywords: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    calls: Calls = field(default_factory=Calls)
    reason: str = ""


def draw_references(job: PipelineJob) -> dict[str, Reference]:
    """Task -> what PyTorch draws; the model is read once."""
    import torch

    from compiler.capture import materialized
    from compiler.capture.tasks import pipeline_for
    from compiler.source import open_model
    from runtimes.trusted_classes import class_path

    try:
        own = class_path(open_model(job.model).pipeline_class())
        left_out = dict.fromkeys(job.left_out)
        pipe = materialized.load(job.model, own, variant=job.variant, components=left_out).diffusers
    except LatentcError as error:
        return dict.fromkeys(job.manifest.pipelines, Reference(reason=error.message))
    except Exception as error:  # of as many libraries as there are components
        reason = f"PyTorch cannot load the model: {class_and_line(error)}"
        return dict.fromkeys(job.manifest.pipelines, Reference(reason=reason))
    with torch.no_grad():
        return {task: _drawn(job, task, pipeline_for(pipe, task)) for task in job.manifest.pipelines}


def _drawn(job: PipelineJob, task: str, pipe: Any) -> Reference:
    """What PyTorch's pipeline draws: in the first of a few ways to call it that it takes."""
    pipe.set_progress_bar_config(disable=True)
    methods = component_methods(job.manifest, pipe)
    failures: list[Exception] = []
    for keywords in _keywords(job, task, pipe):
        calls = Calls()
        try:
            with calls.recording(methods):
                outputs = arrays_in(call_seeded(pipe, pipe, keywords))
        except Exception as error:  # hundreds of pipelines refuse what they do not take in as many ways
            failures.append(error)
            continue
        reasons = (
            f"PyTorch's own {name} {why}" for name, array in outputs.items() if (why := undefined(array))
        )
        reason = next(reasons, "" if outputs else "the pipeline returns no picture")
        return Reference(keywords=keywords, outputs=outputs, calls=calls, reason=reason)
    return Reference(reason=f"PyTorch's own pipeline cannot be called: {class_and_line(failures[0])}")


def component_methods(manifest: Manifest, pipe: Any) -> dict[str, tuple[Any, str]]:
    """ "unet.forward" -> the module that has the method, and the method's name there."""
    methods: dict[str, tuple[Any, str]] = {}
    for component in manifest.components:
        module = getattr(pipe, component.name, None)
        if module is not None:
            for record in component.methods:
                path, _, leaf = record.method.rpartition(".")
                methods[f"{component.name}.{record.method}"] = (module.get_submodule(path), leaf)
    return methods


def _keywords(job: PipelineJob, task: str, pipe: Any) -> Iterator[dict[str, Any]]:
    """Ways to call the pipeline, the wanted one first: two steps at the smallest size, and arrays of the picture."""
    sizes = job.manifest.sizes
    batch = max(1, sizes["batch"].min)
    frames = sizes["frames"].min if "frames" in sizes else 0
    point = Point(batch, sizes["height"].min, sizes["width"].min, images_per_prompt=batch, frames=frames)
    overrides = parse_arguments(job.manifest.arguments)
    for form, extra in itertools.product(point.forms, retries(pipe)):
        for output_type, steps in (("np", DRAWN_STEPS), (None, DRAWN_STEPS), (None, STEPS)):
            keywords = dict(arguments(pipe, task, replace(point, form=form), extra, overrides))
            for name in ("num_inference_steps", "prior_num_inference_steps"):
                if name in keywords and name not in overrides:
                    keywords[name] = _steps(pipe, steps)
            if (
                output_type is not None
                and "output_type" in _parameters(pipe)
                and "output_type" not in overrides
            ):
                keywords["output_type"] = output_type
            keywords.pop("generator", None)
            yield keywords


def _steps(pipe: Any, steps: int) -> int:
    """How many steps to ask for, so that `steps` are made: a pipeline that starts from a picture leaves some out."""
    strength = getattr(_parameters(pipe).get("strength"), "default", None)
    return round(steps / strength) if isinstance(strength, float) and 0 < strength < 1 else steps


def _parameters(pipe: Any) -> Mapping[str, Any]:
    from runtimes.generate_options import parameters

    return parameters(pipe)


def call_seeded(pipe: Any, call: Any, keywords: Mapping[str, Any]) -> Any:
    """What `call` returns, with generators from the seeds 0, 1, ... where `pipe` takes generators."""
    import torch

    from runtimes.generate_options import synonym

    torch.manual_seed(0)  # for noise that does not come from the generator
    name = synonym("seed", _parameters(pipe))
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(_count(keywords))]
    generator_argument = {} if name is None else {name: generators if len(generators) > 1 else generators[0]}
    return call(**keywords, **generator_argument)


def _count(keywords: Mapping[str, Any]) -> int:
    """How many pictures a call makes, as `generate` counts them."""
    from runtimes.generate_options import SYNONYMS

    prompts = keywords.get("prompt")
    images = next((int(keywords[name]) for name in SYNONYMS["images"] if keywords.get(name)), 1)
    return images * (len(prompts) if isinstance(prompts, (list, tuple)) else 1)
