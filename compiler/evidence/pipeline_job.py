"""What the check of a pipeline is asked: PyTorch's model, and the artifact-to-be."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from artifacts.manifest import Manifest, ModelSpec


class PipelineJob(BaseModel):
    """What draws: PyTorch's model, and the artifact-to-be.

    Attributes:
        model: what it is made of; `variant` is that of a folder's weight files ("fp16"), if they have one.
        left_out: components of the model that the artifact does not have.
        loose: a folder with the artifact's index, schedulers and tokenizers.
        root: what the manifest's paths are relative to.
        check: "quick" or "full", for the evidence.
        scheme_tolerances: of the weight schemes that the graphs have, told by the process that knows them.
    """

    kind: Literal["pipelines"] = "pipelines"
    model: ModelSpec
    variant: str | None
    left_out: tuple[str, ...]
    loose: str
    root: str
    manifest: Manifest
    check: Literal["quick", "full"]
    scheme_tolerances: dict[str, float] = {}
