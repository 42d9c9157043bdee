"""Merged adapters: a manifest names them by name and content, and they are found again by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from artifacts.errors import LatentcError
from artifacts.hashing import file_record, record_path
from artifacts.manifest import Adapter, ModelSpec
from compiler.compiled_manifest import _recorded, _weight_records
from compiler.evidence.merged_files import located
from compiler.source import open_model


def lora(path: Path, number: float = 1) -> Path:
    save_file({"a": np.full(2, number, np.float32)}, path)
    return path


def recorded(model: Path, *files: Path) -> tuple[ModelSpec, Any]:
    """What a manifest has of a compile with these adapters: the specification, and the weight files."""
    adapters = tuple(Adapter(file=str(file), weight=0.5) for file in files)
    source = open_model(ModelSpec(model=str(model), adapters=adapters))
    weights = {"unet": (file_record(source.root, model / "model_index.json"),)}
    added = tuple(file_record(source.root, file) for file in source.added)
    sources = {name: (*records, *added) for name, records in weights.items()}
    spec = _recorded(source, source.spec.adapters, sources)
    assert spec is not None
    return spec, _weight_records(source, sources)


def test_a_file_elsewhere_is_named_and_not_placed(folder, tmp_path):
    model = folder()
    inside, elsewhere = lora(model / "inside.safetensors"), lora(tmp_path / "style.safetensors", 2)
    spec, weights = recorded(model, inside, elsewhere)
    assert [adapter.file for adapter in spec.adapters] == ["inside.safetensors", "style.safetensors"]
    assert [adapter.sha256 for adapter in spec.adapters] == [
        file_record(path.parent, path).sha256 for path in (inside, elsewhere)
    ]
    assert str(tmp_path) not in spec.model_dump_json().replace(str(model), "")
    assert [record.path for record in weights] == [record_path(model, model / "model_index.json")]
    assert spec.adapters[1].text.startswith("style.safetensors at 0.5, SHA-256 ")


@pytest.mark.parametrize("place", ["model", ".", "named", "renamed"])
def test_it_is_found_by_its_content(folder, tmp_path, place):
    model = folder()
    (tmp_path / "far").mkdir()
    file = lora(tmp_path / "far" / "style.safetensors")
    spec, _ = recorded(model, file)
    name = "other.safetensors" if place == "renamed" else "style.safetensors"
    target = {"model": model, ".": tmp_path}.get(place, tmp_path / "far") / name
    file.rename(target)
    if place == "named":
        lora(
            model / "style.safetensors", 3
        )  # Another one of the same name, where it is looked for otherwise.
    again = located(spec, (target,) if "named" in place else ())
    assert [adapter.file for adapter in again.adapters] == [str(target)]


def test_one_that_is_not_there_is_asked_for(folder, tmp_path):
    model = folder()
    file = lora(tmp_path / "style.safetensors")
    spec, _ = recorded(model, file)
    lora(file, 2)
    for files in ((), (file,)):
        with pytest.raises(LatentcError, match=r"the LoRA style.safetensors, which was merged") as caught:
            located(spec, files)
        assert "--numerics --lora PATH" in caught.value.hint and "\n" not in caught.value.message
