"""Where a model is found, which of its files are its weights, and what is said when it cannot be read."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from artifacts.contents import Folder
from artifacts.errors import LatentcError
from artifacts.manifest import ModelSpec
from compiler import source as module
from compiler.model_source import ComponentSource, ModelSource
from compiler.source import open_model

ONE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}


def component(root: Path, name: str = "unet") -> ComponentSource:
    return next(c for c in open_model(str(root)).components if c.name == name)


# --- finding the model ---------------------------------------------------------------------------


def test_a_folder_tells_its_components_and_the_rest_of_the_index(folder):
    root = folder(
        {"unet/config.json": "{}"},
        unet=["diffusers", "UNet2DConditionModel"],
        tokenizer=["transformers", "CLIPTokenizer"],
        safety_checker=[None, None],
        requires_safety_checker=False,
        force_zeros=["a", 1],
    )
    found = open_model(str(root))
    assert (found.id, found.root, found.revision) == (str(root), root, "")
    assert found.pipeline == "StableDiffusionPipeline"
    assert [(c.name, c.library, c.class_name, c.folder) for c in found.components] == [
        ("unet", "diffusers", "UNet2DConditionModel", root / "unet"),
        ("tokenizer", "transformers", "CLIPTokenizer", root / "tokenizer"),
    ]
    assert found.config == {"requires_safety_checker": False, "force_zeros": ["a", 1]}


def test_what_another_library_brings_is_left_out_where_the_pipeline_can_do_without(folder):
    checker = ["some_guardrail", "GuardrailChecker"]
    root = folder(unet=["diffusers", "UNet2DConditionModel"], safety_checker=checker)
    model = open_model(str(root))
    assert [c.name for c in model.modules] == ["unet"]
    (part,) = model.left_out
    assert (part.name, part.class_name) == ("safety_checker", "GuardrailChecker")
    assert "'some_guardrail'" in part.reason
    assert json.loads(model.files.read("model_index.json"))["safety_checker"] == [None, None]


def test_what_another_library_brings_is_no_module_of_ours(folder):
    required = open_model(str(folder(unet=["some_library", "Net"])))
    with pytest.raises(
        LatentcError, match="'unet' is a Net of 'some_library'; latentc runs code of diffusers"
    ):
        _ = required.modules


def test_modules_are_the_components_that_are_torch_modules(sd15):
    found = open_model(str(sd15))
    assert {c.name for c in found.modules} == {"unet", "vae", "text_encoder"}
    assert {c.name for c in found.components} == {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert found.pipeline_class().__name__ == "StableDiffusionPipeline"


def test_a_folder_without_an_index(tmp_path):
    with pytest.raises(LatentcError, match="has no model_index.json") as caught:
        open_model(str(tmp_path))
    assert "Give the folder above its unet/" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("\xff", "is not valid JSON"),
        ("[" * 200_000 + "]" * 200_000, "nested too deep"),
        ('{"_class_name": "A", "unet": [1, 2], "unet": [1, 2]}', "'unet' is there twice"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "a pointer of git-lfs"),
        ('{"_class_name": ["mine", "MyPipeline"]}', "'MyPipeline', a class in the model's own Python"),
        ("[]", "names no pipeline class"),
        ("{}", "names no pipeline class"),
        ('{"_class_name": 1}', "names no pipeline class"),
    ],
)
def test_a_broken_index(tmp_path, text, message):
    (tmp_path / "model_index.json").write_text(text, encoding="latin-1")
    with pytest.raises(LatentcError, match=message) as caught:
        open_model(str(tmp_path))
    assert str(tmp_path / "model_index.json") in caught.value.message


@pytest.mark.parametrize("name", ["../outside", "a/b", "..", "c:\\outside", ""])
def test_a_component_is_nowhere_but_in_the_model(folder, name):
    root = folder(**{name: ["transformers", "CLIPTokenizer"]})
    with pytest.raises(LatentcError, match="is not the name of a component"):
        open_model(str(root))


def test_an_empty_file_is_no_model(tmp_path):
    file = tmp_path / "v1-5.safetensors"
    file.touch()
    with pytest.raises(LatentcError, match="is not a sound safetensors file: it is truncated"):
        open_model(str(file))


@pytest.mark.parametrize(
    "name",
    [
        "shpaes",
        "./a/b",
        "a/b/c",
        "/nowhere",
        "~/model",
        "models/my sd15",
        "C:/sd15",
        "C:\\sd15",
        "sd15/",
        "a/..",
        "",
        "m" * 300,
        "owner/" + "m" * 300,
        "m\0/sd15",
        "m\udcff/sd15",
    ],
)
def test_an_unknown_name_is_told_the_built_in_ones(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)  # the hub is not asked
    with pytest.raises(LatentcError, match=r"no built-in model \(there are: .*shapes") as caught:
        open_model(name)
    assert f"there is no model '{name}'" in caught.value.message


def test_a_built_in_name_is_a_folder_of_an_entry_point(folder, monkeypatch):
    root = folder()
    monkeypatch.setitem(sys.modules, "made_up_models", SimpleNamespace(DIR=str(root)))
    entry = EntryPoint("squares", "made_up_models:DIR", module.BUILTIN_MODELS)
    monkeypatch.setattr(
        module.metadata, "entry_points", lambda group: [entry] if group == module.BUILTIN_MODELS else []
    )
    assert module.builtin_models() == {"squares": "made_up_models:DIR"}
    found = open_model("squares")
    assert (found.id, found.root) == ("squares", root)


# --- the hub (its failures: test_hub.py) ----------------------------------------------------------


def test_a_hub_id_is_its_snapshot_and_never_a_pickle(folder, monkeypatch):
    root = folder()
    snapshot = root.rename(root.with_name("0123456789abcdef"))
    asked = {}

    def download(model, allow_patterns):
        asked[model] = allow_patterns
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = open_model("owner/name")
    assert (found.id, found.root, found.revision) == ("owner/name", snapshot, "0123456789abcdef")
    assert "*.safetensors" in asked["owner/name"] and "*.bin" not in asked["owner/name"]


# --- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "name", "message"),
    [
        ("diffusers", "UNet9000", "'unet' is a UNet9000, which the installed diffusers does not have"),
        ("transformers", "CLIPX", "'unet' is a CLIPX, which the installed transformers does not have"),
        ("diffusers", "logging", "'unet' is a logging, which the installed diffusers does not have"),
        ("my_package", "MyUNet", "latentc runs code of diffusers and transformers only"),
        ("os", "PathLike", "latentc runs code of diffusers and transformers only"),
    ],
)
def test_a_class_that_is_not_there(tmp_path, library, name, message):
    with pytest.raises(LatentcError, match=message) as caught:
        _ = ComponentSource("unet", library, name, tmp_path).is_module
    assert "pip install -U" in caught.value.hint


def test_a_class_of_a_pipelines_own_module(tmp_path):
    found = ComponentSource("checker", "stable_diffusion", "StableDiffusionSafetyChecker", tmp_path)
    assert found.is_module and found.cls.__name__ == "StableDiffusionSafetyChecker"


def test_a_pipeline_that_diffusers_does_not_have(folder):
    found = open_model(str(folder(_class_name="HologramPipeline")))
    with pytest.raises(LatentcError, match="is a HologramPipeline, which diffusers .* does not have"):
        found.pipeline_class()


# --- weight files --------------------------------------------------------------------------------


def files_of(root: Path, *names: str) -> tuple[str, ...]:
    place = root / "unet"
    place.mkdir(parents=True)
    for name in names:
        (place / name).touch()
    return tuple(
        p.name for p in ComponentSource("unet", "diffusers", "UNet2DConditionModel", place).weight_files
    )


def test_which_files_are_read(tmp_path):
    assert files_of(tmp_path / "a", "model.fp16.safetensors") == ("model.fp16.safetensors",)
    both = ("model.fp16.safetensors", "model.safetensors", "pytorch_model.bin")
    assert files_of(tmp_path / "b", *both) == ("model.safetensors",)
    assert files_of(
        tmp_path / "c", "diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.safetensors"
    ) == ("diffusion_pytorch_model.safetensors",)


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("model.safetensors.index.json", "model-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002.safetensors"),
        (
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors",
        ),
    ],
)
def test_shards_are_read_in_order(folder, index, shard):
    first, second = shard.format(1), shard.format(2)
    root = folder(
        {
            f"unet/{second}": {"b": np.zeros(2, np.float16)},
            f"unet/{first}": ONE,
            f"unet/{index}": {"weight_map": {"b": second, "a": first}},
        },
        unet=["diffusers", "UNet2DConditionModel"],
    )
    found = component(root)
    assert [p.name for p in found.weight_files] == [first, second]
    assert {key: (s.file.name, s.shape, s.dtype) for key, s in found.stored.items()} == {
        "a": (first, (2, 3), ir.DataType.FLOAT),
        "b": (second, (2,), ir.DataType.FLOAT16),
    }
    np.testing.assert_array_equal(found.stored["a"].read(), ONE["a"])


def test_a_key_in_two_shards(folder):
    root = folder(
        {
            "unet/model-1-of-2.safetensors": ONE,
            "unet/model-2-of-2.safetensors": ONE,
            "unet/model.safetensors.index.json": {
                "weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
            },
        },
        unet=["diffusers", "UNet2DConditionModel"],
    )
    with pytest.raises(LatentcError, match=r"'a' stands in both .*model-1-of-2.* and .*model-2-of-2"):
        _ = component(root).stored


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[" * 200_000, "nested too deep"),
        ('{"weight_map": {"a": "b", "a": "c"}}', "'a' is there twice"),
        ('{"weight_map": {}}', "is not an index of shards"),
        ("[]", "is not an index of shards"),
        ('{"weight_map": []}', "is not an index of shards"),
        ('{"weight_map": {"a": 1}}', "is not an index of shards"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "names the shard 'gone.safetensors', which is not in"),
        ('{"weight_map": {"a": "../model_index.json"}}', r"names the shard '../model_index.json'"),
    ],
)
def test_a_broken_index_of_shards(folder, content, message):
    root = folder({"unet/model.safetensors.index.json": content}, unet=["diffusers", "UNet2DConditionModel"])
    with pytest.raises(LatentcError, match=message):
        _ = component(root).weight_files


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin", "unet.ckpt", "x.pt"])
def test_pickles_are_refused_with_the_reason(folder, name):
    root = folder({f"unet/{name}": "x"}, unet=["diffusers", "UNet2DConditionModel"])
    with pytest.raises(LatentcError, match=f"'unet' are a pickle .{name}., which can run any code") as caught:
        _ = component(root).weight_files
    assert "save_pretrained(NEW_FOLDER)" in caught.value.hint


def test_no_weights_at_all(folder):
    root = folder({"unet/config.json": "{}"}, unet=["diffusers", "UNet2DConditionModel"])
    with pytest.raises(LatentcError, match="holds no weights: expected diffusion_pytorch_model.safetensors"):
        _ = component(root).weight_files


def test_truncated_weights(folder):
    root = folder({"unet/model.safetensors": ONE}, unet=["diffusers", "UNet2DConditionModel"])
    file = root / "unet" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(LatentcError, match="model.safetensors is not a sound safetensors file: it is trunc"):
        _ = component(root).stored


def test_a_type_that_cannot_be_compiled(folder):
    root = folder(
        {"unet/model.safetensors": {"mask": np.zeros(2, np.uint16)}},
        unet=["diffusers", "UNet2DConditionModel"],
    )
    with pytest.raises(LatentcError, match="'mask' in .* is of type U16, which cannot be compiled"):
        _ = component(root).stored


def test_reading_where_a_model_is_reads_no_weight(folder, monkeypatch):
    root = folder({"unet/model.safetensors": ONE}, unet=["diffusers", "UNet2DConditionModel"])
    monkeypatch.setattr(np, "fromfile", None)
    assert json.loads((root / "model_index.json").read_text())["unet"]
    assert component(root).stored["a"].nbytes == 24


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        (["unet/a.safetensors"], None),
        (["unet/a.fp16.safetensors"], "fp16"),
        (["unet/a.fp16-00001-of-00002.safetensors", "unet/a.fp16-00002-of-00002.safetensors"], "fp16"),
    ],
)
def test_a_variant_is_read_off_the_names_of_the_weight_files(files, variant, tmp_path, monkeypatch):
    part = ComponentSource("unet", "diffusers", "UNet2DConditionModel", tmp_path)
    monkeypatch.setattr(ComponentSource, "weight_files", tuple(tmp_path / name for name in files))
    assert part.variant == variant
    assert (
        ModelSource("m", tmp_path, "", "P", (part,), {}, Folder(tmp_path), ModelSpec(model="m")).variant
        == variant
    )


def test_an_artifact_is_no_model(folder):
    root = folder(
        {"unet/config.json": "{}", "latentc.json": "{}"}, unet=["diffusers", "UNet2DConditionModel"]
    )
    with pytest.raises(LatentcError, match="is an artifact, compiled already") as caught:
        open_model(str(root))
    assert "--rebuild" in caught.value.hint


def test_a_part_that_the_hub_did_not_deliver(folder, tmp_path):
    files = {"unet/config.json": "{}", "unet/diffusion_pytorch_model.safetensors.incomplete": "half"}
    plain = folder(files, unet=["diffusers", "UNet2DConditionModel"])
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    plain.rename(snapshot)
    with pytest.raises(LatentcError, match=r"unfinished download \(diffusion.*incomplete\)") as caught:
        component(snapshot).weight_files  # noqa: B018
    assert caught.value.hint == "Its download is not complete: hf download owner/name"
    link = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    try:
        link.symlink_to(tmp_path / "nowhere")
    except OSError:
        pytest.skip("no links here")
    with pytest.raises(LatentcError, match="a link to a file that is not there") as caught:
        component(snapshot).weight_files  # noqa: B018
    assert "owner/name" in caught.value.hint
