"""Which other projects open an artifact as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from artifacts.manifest import Manifest


@dataclass(frozen=True)
class OtherLoader:
    """A project that reads a target's files.

    Attributes:
        name: of the project.
        pipelines: classes of diffusers, each a loop that the project has written again; for others it has none.
        companion: the end of a file's path that it needs beside what diffusers reads; empty for nothing.
        extra: of ours, that has a compile write that file.
    """

    name: str
    pipelines: frozenset[str]
    companion: str = ""
    extra: str = ""


FAMILIES = frozenset(
    {"StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline"}
)
"""Those that `python -m bench.project.interop` opens and draws with. The projects know some more, unmeasured here."""


def opened_by(manifest: Manifest, loaders: tuple[OtherLoader, ...]) -> Iterator[str]:
    """Who of a target's loaders opens an artifact, with what is missing for that; nothing where only latentc does."""
    classes = {path.rpartition(":")[2] for path in manifest.pipelines.values()}
    for loader in loaders:
        if not classes & loader.pipelines:
            continue
        missing = loader.companion and all(
            not file.path.endswith(loader.companion) for file in manifest.files
        )
        yield f"{loader.name} (once compiled with latentc[{loader.extra}])" if missing else loader.name
