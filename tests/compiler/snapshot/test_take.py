"""A model's snapshot: of its configs alone, the same in every process and folder, checked with its own options."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from compiler.capture.declared_sizes import SizeRange
from compiler.snapshot.golden_snapshot import check, read, write
from compiler.snapshot.take import SnapshotOptions, forms, take
from targets import target_table as targets

ONE = SnapshotOptions(components=("text_encoder",))


@pytest.fixture(scope="module")
def taken(configs: Path):
    return take(str(configs), ONE)


def test_a_folder_without_weights_gives_the_same_as_one_with_them(taken, sd15):
    assert take(str(sd15), ONE).text() == taken.text()


def test_every_target_has_its_form(taken):
    assert {name for graph in taken.graphs for name in graph.targets} == set(targets.names())
    neutral, *others = taken.graphs
    assert neutral.form == "fp32" and neutral.targets == () and neutral.numeric
    assert [g.form for g in others] == [form.name for form in forms(targets.names())]
    for graph in others:
        weights = [text for module in graph.modules.values() for text in module.weights.values()]
        assert any(text.startswith("float16") for text in weights)


@pytest.mark.slow
def test_another_process_folder_and_hash_seed_give_the_same(taken, configs, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(configs, copy)
    for seed in ("0", "12345"):
        subprocess.run(
            [sys.executable, "-m", "latentc", "graph", "snapshot", str(copy), "-o", "out.graph",
             "--component", "text_encoder"],
            check=True, cwd=tmp_path, capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert (tmp_path / "out.graph").read_text(encoding="utf-8") == taken.text()


@pytest.mark.slow
def test_a_check_finds_what_changed_in_the_config(taken, configs, tmp_path):
    changed = tmp_path / "sd15"
    shutil.copytree(configs, changed)
    config = changed / "text_encoder" / "config.json"
    text = config.read_text(encoding="utf-8")
    assert '"layer_norm_eps": 1e-05' in text
    config.write_text(text.replace('"layer_norm_eps": 1e-05', '"layer_norm_eps": 1e-03'), encoding="utf-8")
    golden = tmp_path / "sd15.graph"
    write(golden, taken)
    found = check(str(changed), golden)
    norms = [c for c in found if c.kind == "attributes"]
    assert [c.text for c in norms] == ["LayerNormalization epsilon=1e-05 -> epsilon=0.001"]
    assert "encoder.layers.0.layer_norm1" in norms[0].modules
    assert read(golden).text() == taken.text()
    assert check(str(changed), golden, update=True) == found
    assert read(golden).text() != taken.text()


def test_a_component_that_is_never_called_is_refused(configs):
    message = "calls no component 'tokenizer' .it calls: text_encoder, unet, vae"
    with pytest.raises(UsageError, match=message) as caught:
        take(str(configs), SnapshotOptions(components=("tokenizer",)))
    assert caught.value.hint == "For instance: --component text_encoder"


def test_an_unknown_target_is_refused(configs):
    with pytest.raises(UsageError, match="no target 'abacus'"):
        take(str(configs), SnapshotOptions(targets=("abacus",)))


def test_options_read_back_as_they_were():
    side = DimRange(min=256, max=512)
    options = SnapshotOptions(
        ("openvino",), ("inpaint",), SizeRange(side, side), side, {"a": "b=c d"}, ("unet", "vae")
    )
    assert SnapshotOptions.parse(options.lines()) == options
    assert SnapshotOptions.parse(()) == SnapshotOptions()
    assert SnapshotOptions.parse(SnapshotOptions(targets=()).lines()) == SnapshotOptions(targets=())
    for wrong in ("sighs 8..8 8..8", "size 8", "size a..b 1..2", "batch x"):
        with pytest.raises(LatentcError, match="options cannot be read"):
            SnapshotOptions.parse([wrong])
