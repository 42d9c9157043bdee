"""A component's graph from a model's published config, and inputs to call it with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from compiler.capture.infer import Method


def exported(
    name: str, component: str, size: int, work: Path, config: Mapping[str, object]
) -> tuple[ir.Model, Method]:
    """A component's graph in fp32, for pictures of `size` pixels, from the published config.

    Args:
        config: what is to be different in the component's config.

    Raises:
        LatentcError: the pipeline never calls such a component.
    """
    from artifacts.manifest import DimRange
    from bench.project.full_size.make import make_configs
    from bench.project.full_size.published import PUBLISHED
    from compiler.capture.capture import capture
    from compiler.capture.declared_sizes import SizeRange
    from compiler.export.graph_export import export_graph
    from compiler.source import open_model

    make_configs(PUBLISHED[name], work / name)
    file = work / name / component / "config.json"
    if config and file.is_file():
        changed = json.loads(file.read_text(encoding="utf-8")) | dict(config)
        file.write_text(json.dumps(changed), encoding="utf-8")
    source = open_model(str(work / name))
    side = DimRange(min=size, max=size)
    captured = capture(source, size=SizeRange(width=side, height=side), weightless=True)
    methods = [m for m in captured.methods if m.component == component]
    if not methods:
        called = ", ".join(sorted({m.component for m in captured.methods}))
        raise LatentcError(f"the pipeline calls no '{component}' (it calls: {called}).")
    part = source.component(component)
    return export_graph(part, methods[0], captured.weights[component]), methods[0]


def inputs_of(method: Method) -> dict[str, np.ndarray]:
    """One call's inputs, with symbolic dimensions as large as they were declared: noise, and timestep 500."""
    import numpy as np

    random = np.random.default_rng(0)
    arrays = {}
    for spec in method.inputs:
        shape = tuple(d if isinstance(d, int) else method.dims[d].max for d in spec.shape)
        kind = np.dtype(spec.dtype)
        noise = random.standard_normal(shape, np.float32) if len(shape) > 1 else np.full(shape, 500.0)
        arrays[spec.name] = np.asarray(noise).astype(kind) if kind.kind == "f" else np.full(shape, 500, kind)
    return arrays
