"""Tasks and the pipeline classes that do them, as diffusers' own AutoPipeline tables pair them."""

from __future__ import annotations

import inspect
from typing import Any

from artifacts.errors import UsageError

# Task -> (the AutoPipeline that finds a sibling class, the table of classes it covers).
_AUTO: dict[str, tuple[str, str]] = {
    "text-to-image": ("AutoPipelineForText2Image", "AUTO_TEXT2IMAGE_PIPELINES_MAPPING"),
    "image-to-image": ("AutoPipelineForImage2Image", "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING"),
    "inpaint": ("AutoPipelineForInpainting", "AUTO_INPAINT_PIPELINES_MAPPING"),
}

TASKS: tuple[str, ...] = tuple(_AUTO)


def own_task(cls: type) -> str:
    """The task of a pipeline class: by diffusers' tables, else by what its call takes."""
    from diffusers.pipelines import auto_pipeline

    for task, (_, table) in _AUTO.items():
        if cls in getattr(auto_pipeline, table).values():
            return task
    taken = inspect.signature(cls.__call__).parameters
    if "mask_image" in taken:
        return "inpaint"
    required = taken.get("image")
    return "image-to-image" if required is not None and "prompt" not in taken else "text-to-image"


def pipeline_for(pipe: Any, task: str) -> Any:
    """`pipe`, or diffusers' pipeline for `task` with the same components.

    Raises:
        UsageError: diffusers has none.
    """
    import diffusers

    if own_task(type(pipe)) == task:
        return pipe
    if task not in _AUTO:
        raise UsageError(f"there is no task '{task}' (there are: {', '.join(TASKS)}).")
    try:
        decoder = _decoder(type(pipe), task)
        if decoder is not None:
            return decoder(**pipe.components)  # its from_pipe would cast modules, which have no weights here
        return getattr(diffusers, _AUTO[task][0]).from_pipe(pipe)
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(
            f"diffusers has no {task} pipeline for {type(pipe).__name__}: {error}",
            "Leave --task out to compile what the model itself does.",
        ) from error


def _decoder(cls: type, task: str) -> Any:
    """The pipeline for `task` of a model in two stages whose second stage is `cls`, or None.

    For these, AutoPipeline knows combined pipelines alone, which want the components of a prior as well.
    """
    from diffusers.pipelines import auto_pipeline

    tables = {
        name: getattr(auto_pipeline, f"_{table.replace('_PIPELINES', '_DECODER_PIPELINES')}", {})
        for name, (_, table) in _AUTO.items()
    }
    models = {
        model for table in tables.values() for model, pipeline_class in table.items() if pipeline_class is cls
    }
    return next((pipeline_class for model, pipeline_class in tables[task].items() if model in models), None)
