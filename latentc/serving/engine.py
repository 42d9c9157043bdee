"""A served artifact: what its manifest says of it, and the process that draws with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from artifacts.manifest import DimRange
from artifacts.manifest_reading import read_manifest
from artifacts.worker import Worker, WorkerEnded, serving


@dataclass(frozen=True)
class LoadOptions:
    """How an artifact is opened: `runtimes.pipeline.load` says what each means."""

    device: str = "auto"
    compute: str = "auto"
    strict: bool = False
    memory: int | None = None


class Engine(Protocol):
    """What draws one model's batches, one after the other."""

    name: str
    tasks: tuple[str, ...]
    sizes: Mapping[str, DimRange]

    def open(self) -> Mapping[str, Any]:
        """Starts it, and returns the answer of `latentc.serving.drawer` to "open"; waits until it is ready."""

    def draw(self, job: Mapping[str, Any], on_event: Callable[[Any], None]) -> Mapping[str, Any]:
        """Draws a `latentc.serving.drawing_request.batch_job`, and returns what `latentc.serving.drawer` answers.

        Raises:
            WorkerError: the work raised it.
            WorkerEnded: the process has ended; `open` starts it again.
        """

    def cancel(self, batch: int) -> None:
        """Stops a batch within one step; from any thread."""

    def kill(self) -> None:
        """Ends the process at once; from any thread."""

    def close(self) -> None:
        """Ends the process."""


class ArtifactEngine:
    """An artifact in a process of its own."""

    def __init__(self, artifact: Path, options: LoadOptions, name: str = "") -> None:
        """
        Args:
            artifact: its folder.
            name: by which requests ask for it; empty for that of the folder.

        Raises:
            LatentcError: there is no artifact.
        """
        manifest = read_manifest(artifact)
        self.name = name or artifact.name
        self.tasks = tuple(manifest.pipelines)
        self.sizes: Mapping[str, DimRange] = manifest.sizes
        self._worker = Worker(
            serving("latentc.serving.drawer:drawer", str(artifact), json.dumps(asdict(options))),
            patience=10.0,
        )

    def open(self) -> Mapping[str, Any]:
        """See `Engine.open`."""
        return self._ask({"do": "open"})

    def draw(self, job: Mapping[str, Any], on_event: Callable[[Any], None]) -> Mapping[str, Any]:
        """See `Engine.draw`."""
        return self._ask(job, on_event)

    def cancel(self, batch: int) -> None:
        """See `Engine.cancel`."""
        self._worker.tell({"cancel": batch})

    def kill(self) -> None:
        """See `Engine.kill`."""
        self._worker.kill()

    def close(self) -> None:
        """See `Engine.close`."""
        self._worker.close()

    def _ask(
        self, job: Mapping[str, Any], on_event: Callable[[Any], None] = lambda event: None
    ) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = self._worker.ask(job, on_event)
            return answer
        except WorkerEnded:
            self._worker.close()
            raise
