"""Exports that several tests share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from compiler.model_source import ComponentSource


@contextmanager
def exported_once() -> Iterator[None]:
    """While it is open, a graph is exported once, though both targets and other pipelines (one VAE, one text encoder)
    have it too."""
    from compiler.export import graph_export

    export, kept = graph_export.export_graph, {}

    def once(component: ComponentSource, method: Any, weights: Any) -> Any:
        files = (component.folder / "config.json", *component.weight_files)
        key = (
            component.class_name,
            repr(method),
            *(hashlib.sha256(f.read_bytes()).hexdigest() for f in files),
        )
        if key not in kept:
            kept[key] = export(component, method, weights)
        return kept[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_export, "export_graph", once)
        yield
