"""One tiny pipeline for all tests here; torch on one thread, which is faster for tensors this small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from artifacts.manifest import Manifest
from runtimes.pipeline import Pipeline
from tests.runtimes import tiny


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Compiled:
    """PyTorch's pipeline, and what its artifact needs."""

    reference: Any
    root: Path
    manifest: Manifest

    def pool(self) -> tiny.TorchGraphs:
        return tiny.TorchGraphs(self.reference, self.manifest)

    def pipeline(
        self, task: str = "text-to-image", pool: Any = None, manifest: Manifest | None = None
    ) -> Pipeline:
        return Pipeline(self.root, manifest or self.manifest, task, pool or self.pool())


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("tiny")
    reference = tiny.stable_diffusion(folder)
    return Compiled(reference, tiny.write_artifact(reference, folder / "artifact"), tiny.manifest())
