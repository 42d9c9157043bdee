"""What a pipeline needs of the graphs behind its components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from artifacts.manifest import Adapter
from runtimes.compiled_method import Runner
from runtimes.sessions.file_constants import Replaced


class GraphPool(Runner, Protocol):
    """What `runtimes.pipeline.Pipeline` needs of `runtimes.graphs.Graphs`, or of what stands in for it."""

    @property
    def note(self) -> str:
        """What a user is told of the device, and of the types that it computes in."""

    @property
    def computes(self) -> Mapping[str, str]:
        """Graph folder -> the type that it is computed in."""

    @property
    def device(self) -> str:
        """What graphs run on, by the session's own name; empty where there is no such device."""

    @property
    def on_host(self) -> bool:
        """Whether all graphs are computed with the host's own processor."""

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The LoRAs that are switched on."""

    def open_all(self) -> None:
        """Opens every graph."""

    def replace(self, constants: Mapping[str, Replaced], adapters: tuple[Adapter, ...]) -> None:
        """Opens graphs anew with other constants, by the graph's folder."""

    def close(self) -> None:
        """Frees all graphs."""
