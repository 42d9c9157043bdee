"""A tiny UNet, known by its configs alone, exported once for all tests of snapshots."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir
import pytest

from tests.compiler.snapshot.planting import Exported


@pytest.fixture(scope="session")
def configs(sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Stable Diffusion without any weight file."""
    folder = tmp_path_factory.mktemp("configs") / "sd15"
    shutil.copytree(sd15, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture(scope="session")
def exported(configs: Path) -> Exported:
    """Its UNet's graph. Tests take copies."""
    from compiler.capture.capture import capture
    from compiler.export.graph_export import export_graph
    from compiler.snapshot.take import largest
    from compiler.source import open_model

    source = open_model(str(configs))
    captured = capture(source, weightless=True)
    (method,) = [m for m in captured.methods if m.component == "unet"]
    (component,) = [c for c in source.modules if c.name == "unet"]
    graph = export_graph(component, method, captured.weights["unet"])
    return Exported(graph, method, largest(method))


@pytest.fixture
def unet(exported: Exported) -> ir.Model:
    """A copy of the UNet's graph, to be changed."""
    return exported.graph.clone()
