"""What the process that checks is asked to draw: PyTorch's model, and the artifact-to-be."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from artifacts.manifest import Manifest, ModelSpec
from compiler.evaluation import Evaluation


class DrawingJob(BaseModel):
    """What draws.

    Attributes:
        model: what it is made of; `variant` is that of a folder's weight files ("fp16"), if they have one.
        loose: a folder with the artifact's index, schedulers and tokenizers.
        root: what the manifest's paths are relative to.
    """

    model: ModelSpec
    variant: str | None
    loose: str
    root: str
    manifest: Manifest


class PipelineJob(DrawingJob):
    """A small picture of each task.

    Attributes:
        left_out: components of the model that the artifact does not have.
        check: "quick" or "full", for the evidence.
        scheme_tolerances: of the weight schemes that the graphs have, told by the process that knows them.
    """

    kind: Literal["pipelines"] = "pipelines"
    left_out: tuple[str, ...]
    check: Literal["quick", "full"]
    scheme_tolerances: dict[str, float] = {}


class PictureJob(DrawingJob):
    """Pictures of the model's prompts, in the steps that it is meant for.

    Attributes:
        width, height: in pixels.
        budget: seconds that drawing may take on this machine; what takes more is not measured.
        references: a folder that keeps what PyTorch drew for other jobs; empty for none.
    """

    kind: Literal["pictures"] = "pictures"
    evaluation: Evaluation
    width: int
    height: int
    budget: float
    references: str = ""
