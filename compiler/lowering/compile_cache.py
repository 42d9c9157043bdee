"""What several compiles of one model have in common, made once: its capture, its graphs before any pass, and what is
measured of activations."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, TypeVar, cast

from targets.graph.model_copy import copy_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from compiler.capture.capture import Capture


Measured = TypeVar("Measured")


class CompileCache:
    """Captures, exported graphs and measurements of this process. Graphs hold no weights: a few megabytes each."""

    def __init__(self) -> None:
        self._captures: dict[Hashable, Capture] = {}
        self._graphs: dict[Hashable, ir.Model] = {}
        self._measured: dict[Hashable, object] = {}

    def capture(self, key: Hashable, make: Callable[[], Capture]) -> Capture:
        """The capture of that key; made where there is none yet."""
        if key not in self._captures:
            self._captures[key] = make()
        return self._captures[key]

    def graph(self, captured: Capture, folder: str, make: Callable[[], ir.Model]) -> ir.Model:
        """A copy, which passes may change, of a graph of one of these captures; made where there is none yet."""
        key = (id(captured), folder)  # captures are kept, so that their ids stay theirs
        if key not in self._graphs:
            self._graphs[key] = make()
        return copy_of(self._graphs[key])

    def measured(self, captured: Capture, key: Hashable, make: Callable[[], Measured]) -> Measured:
        """What was measured of one of these captures; measured where it is not yet."""
        whole = (id(captured), key)
        if whole not in self._measured:
            self._measured[whole] = make()
        return cast("Measured", self._measured[whole])
