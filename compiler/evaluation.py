"""What a model is drawn with when it is judged or measured: one list of prompts, for the compiler and for the bench."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from artifacts import strict_json
from artifacts.errors import LatentcError

TASK = "text-to-image"
"""The task that prompts are drawn with."""

EVALUATION = "evaluation.json"
"""A model folder may bring what it is to be judged by: a JSON object with the fields of `Evaluation`."""


class Evaluation(BaseModel):
    """What is drawn. `guidance` None is the pipeline's own."""

    prompts: tuple[str, ...] = (
        "a photo of a lighthouse on a cliff at dawn",
        "a red bicycle leaning against a brick wall",
        "a bowl of soup with a boiled egg, studio lighting",
        "portrait of an old fisherman with a gray beard",
        "a watercolor painting of a mountain village in winter",
        "a cat asleep on a pile of books",
        "an astronaut riding a horse on the moon",
        "a street market at night in the rain, neon signs",
    )
    steps: int = 20
    guidance: float | None = None


def evaluation(model: Path | None, count: int | None = None) -> Evaluation:
    """What the model folder says, or else the default.

    Args:
        model: None where the model is not here.
        count: prompts at most; None for all.

    Raises:
        LatentcError: the folder's file is not what `Evaluation` describes.
    """
    file = None if model is None else model / EVALUATION
    if file is None or not file.is_file():
        stated = Evaluation()
    else:
        try:
            stated = Evaluation.model_validate(strict_json.loads(file.read_bytes(), str(file)))
        except ValidationError as error:
            raise LatentcError(f"{file}: {error.errors()[0]['msg']}.", "See: docs/quantization.md") from error
    return stated.model_copy(update={"prompts": stated.prompts[:count]})
