"""Models for the compiler's tests, built once a session."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1.5 on disk. Tests only read it."""
    from tests.sweep.models import CASES

    folder = tmp_path_factory.mktemp("models") / "sd15"
    CASES["sd15"].build().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a diffusers folder of a model_index.json and of weight files, given as path -> arrays or text."""

    def make(files: Mapping[str, object] | None = None, **index: object) -> Path:
        from safetensors.numpy import save_file

        root = tmp_path / "model"
        root.mkdir()
        content = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", **index}
        (root / "model_index.json").write_text(json.dumps(content), encoding="utf-8")
        for name, data in (files or {}).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, str):
                path.write_text(data, encoding="utf-8")
            elif isinstance(data, dict) and path.suffix == ".json":
                path.write_text(json.dumps(data), encoding="utf-8")
            else:
                assert isinstance(data, dict)
                save_file({key: np.asarray(value) for key, value in data.items()}, path)
        return root

    return make
