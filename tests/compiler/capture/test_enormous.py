"""Models whose configurations ask for too much, or for what their classes refuse: the file and the key are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.errors import LatentcError
from compiler.capture import weightless_modules
from compiler.capture.capture import capture
from compiler.capture.weightless_modules import build
from compiler.model_source import ComponentSource
from compiler.source import open_model
from runtimes import resource_limits

Build = Callable[..., torch.nn.Module]


@pytest.fixture
def built(sd15: Path, tmp_path: Path) -> Build:
    """`built(component, **changes)`: its module, with some settings changed."""

    def built(name: str, **changes: Any) -> torch.nn.Module:
        component = open_model(str(sd15)).component(name)
        folder = tmp_path / name
        shutil.copytree(component.folder, folder)
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        return build(
            ComponentSource(name, component.library, component.class_name, folder),
            FakeTensorMode(allow_non_fake_inputs=True),
        )

    return built


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("unet", "layers_per_block", 10**7),
        ("unet", "cross_attention_dim", 10**9),
        ("vae", "latent_channels", 10**9),
        ("text_encoder", "num_hidden_layers", 10**7),
        ("text_encoder", "hidden_size", 10**9),
        ("text_encoder", "max_position_embeddings", 10**8),
    ],
)
def test_more_than_the_weights_are(
    built: Build, name: str, key: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weightless_modules, "SPARE_WEIGHTS", 1 << 18)
    with pytest.raises(LatentcError, match="is too large: it has .* its files") as refused:
        built(name, **{key: value})
    assert str(tmp_path / name / "config.json") in refused.value.message
    assert f"Its largest figures: '{key}' = {value}" in refused.value.message
    assert "download the model again" in refused.value.hint


def test_more_objects_than_a_model_is_made_of(built: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_limits, "BLOCKS", 200_000)
    with pytest.raises(LatentcError, match="more than 200000 objects.* 'num_labels' = 1000000000"):
        built("text_encoder", num_labels=10**9)


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("unet", {"norm_num_groups": 0}, "'norm_num_groups' = 0"),
        ("unet", {"block_out_channels": [-32, 64]}, r"'block_out_channels\[0\]' = -32"),
        ("unet", {"act_fn": "no_such"}, "'act_fn' = \"no_such\""),
        ("vae", {"block_out_channels": []}, r"'block_out_channels' = \[\]"),
    ],
)
def test_what_a_class_refuses_is_found_in_its_file(
    built: Build, name: str, changes: dict[str, Any], key: str, tmp_path: Path
) -> None:
    with pytest.raises(LatentcError, match=f"cannot be built of .*It may be about: .*{key}") as refused:
        built(name, **changes)
    assert str(tmp_path / name / "config.json") in refused.value.message


def test_a_table_is_measured_before_it_is_computed(
    built: Build, sd15: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls: Any = open_model(str(sd15)).component("unet").cls
    original = cls.__init__

    def with_a_table(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.table = torch.outer(torch.arange(10**5) + 1, torch.arange(10**5))

    # diffusers' decorator reads the constructor's signature.
    with_a_table.__wrapped__ = original  # type: ignore[attr-defined]
    monkeypatch.setattr(cls, "__init__", with_a_table)
    with pytest.raises(LatentcError, match=r"is too large: it makes a tensor of \[100000, 100000\]"):
        built("unet")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "unet/config.json",
            {"sample_size": 10**8},
            "pictures of a size that is too large.*'sample_size' = 1",
        ),
        (
            "tokenizer/tokenizer_config.json",
            {"model_max_length": None},
            "model_max_length of 'tokenizer', which",
        ),
    ],
)
def test_figures_that_a_pipeline_works_with(
    sd15: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    root = tmp_path / "model"
    shutil.copytree(sd15, root)
    values = json.loads((root / file).read_text()) | changes
    (root / file).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(LatentcError, match=message):
        capture(open_model(str(root)))
