"""A diffusers folder in PyTorch: what is read of it, and that it draws what diffusers and an artifact draw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from artifacts.contents import Folder
from artifacts.errors import LatentcError
from runtimes import reference
from runtimes.model_view import model_view
from runtimes.pipeline_parts import is_part, make_part
from tests.runtimes.conftest import Compiled

PROMPTS = ["a red circle", "two blue squares", "a green star"]


@pytest.fixture(scope="module")
def folder(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline as diffusers saves it."""
    root = tmp_path_factory.mktemp("reference") / "model"
    compiled.reference.save_pretrained(root)
    return root


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def pixels(images: Any) -> list[np.ndarray]:
    return [np.asarray(image) for image in images]


def test_one_seed_is_one_picture_here_in_diffusers_and_in_an_artifact(
    compiled: Compiled, folder: Path
) -> None:
    given: dict[str, Any] = {"steps": 2, "guidance": 5.0, "size": "32x32"}
    found = reference.load(folder).generate(PROMPTS[0], seed=7, **given)
    (ours,) = pixels(found.images)
    theirs = compiled.reference(
        PROMPTS[0],
        num_inference_steps=2,
        guidance_scale=5.0,
        width=32,
        height=32,
        generator=torch.Generator().manual_seed(7),
    )
    (artifacts,) = pixels(compiled.pipeline().generate(PROMPTS[0], seed=7, **given).images)
    assert np.array_equal(ours, np.asarray(theirs.images[0]))
    assert np.array_equal(ours, artifacts)
    assert len(found.timings.steps) == 2
    assert (found.seeds, found.flaws) == ((7,), ())


def test_prompts_are_drawn_in_batches_from_a_seed_each(folder: Path) -> None:
    pipeline = reference.load(folder, batch=2)
    sizes: list[int] = []
    inner = pipeline.diffusers.unet.forward

    def forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(sample))
        return inner(sample, *args, **kwargs)

    pipeline.diffusers.unet.forward = forward
    found = pipeline.generate(PROMPTS, seed=3, steps=1, guidance=1.0, size="32x32")
    assert found.seeds == (3, 4, 5)
    assert sizes == [2, 1]
    alone = pipeline.generate(PROMPTS[2], seed=5, steps=1, guidance=1.0, size="32x32")
    assert np.array_equal(*pixels((found.images[2], alone.images[0])))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_every_type_one_seed_is_the_same_noise(folder: Path, precision: Any) -> None:
    drawn = []
    for kind in ("fp32", precision):
        pipe = reference.load(folder, precision=kind).diffusers
        noise = pipe.prepare_latents(
            1, 4, 32, 32, pipe.unet.dtype, torch.device("cpu"), torch.Generator().manual_seed(1)
        )
        assert noise.dtype == pipe.unet.dtype
        drawn.append(noise)
    assert torch.equal(drawn[0].to(drawn[1].dtype), drawn[1])


def test_no_bars_are_drawn(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reference.load(folder).diffusers(PROMPTS[0], num_inference_steps=1, width=32, height=32)
    assert "it/s" not in capfd.readouterr().err


def test_components_may_be_exchanged_or_left_out(folder: Path) -> None:
    unet = reference.load(folder).diffusers.unet
    pipe = reference.load(folder, components={"unet": unet, "safety_checker": None}).diffusers
    assert pipe.unet is unet


def test_what_the_index_has_as_null_is_left_out_though_the_class_asks_for_it(copied: Path) -> None:
    file = copied / "model_index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(index | {"text_encoder": [None, None]}), encoding="utf-8")
    shutil.rmtree(copied / "text_encoder")
    assert reference.load(copied).diffusers.text_encoder is None


def test_a_pickle_is_not_read(copied: Path) -> None:
    (copied / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, copied / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(
        LatentcError, match="PyTorch cannot load .* as StableDiffusionPipeline: .*safetensors"
    ):
        reference.load(copied)


def test_a_class_of_the_folders_own_is_refused(copied: Path) -> None:
    file = copied / "model_index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(index | {"_class_name": ["mine", "Mine"]}), encoding="utf-8")
    (copied / "mine.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    with pytest.raises(LatentcError):
        reference.load(copied)
    with pytest.raises(LatentcError, match="only classes of diffusers and transformers"):
        reference.load(copied, "mine:Mine")


def test_what_a_compile_refuses_is_refused(copied: Path) -> None:
    file = copied / "text_encoder" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"_attn_implementation": "someone/kernel"}), encoding="utf-8")
    with pytest.raises(LatentcError, match=r"config.json: '_attn_implementation' is 'someone/kernel'"):
        reference.load(copied)


def test_an_index_of_shards_that_leads_outside(copied: Path) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(copied / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "../outside.safetensors"}}
    (copied / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LatentcError, match=r"names the shard '../outside.safetensors'"):
        reference.load(copied)


@pytest.mark.parametrize(
    "entry", [["os", "PathLike"], ["numpy", "ndarray"], ["diffusers", "StableDiffusionPipeline"]]
)
def test_an_entry_of_another_library_is_refused(copied: Path, entry: list[str]) -> None:
    file = copied / "model_index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(index | {"unet": entry}), encoding="utf-8")
    with pytest.raises(LatentcError, match="model_index.json: 'unet' is"):
        reference.load(copied, "diffusers:StableDiffusionPipeline")


def test_files_beside_the_components_are_not_seen(copied: Path) -> None:
    (copied / "unet" / "modeling.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    (copied / "pipeline.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    with model_view(copied) as view:
        names = {path.relative_to(view).as_posix() for path in view.rglob("*") if path.is_file()}
    assert "unet/diffusion_pytorch_model.safetensors" in names and "model_index.json" in names
    assert not any(name.endswith(".py") for name in names)
    assert reference.load(copied).diffusers.unet is not None


@pytest.mark.parametrize("emptied", ["gone", "empty", "code alone"])
def test_a_tokenizer_without_files_is_told(copied: Path, emptied: str) -> None:
    shutil.rmtree(copied / "tokenizer")
    if emptied != "gone":
        (copied / "tokenizer").mkdir()
    if emptied == "code alone":
        (copied / "tokenizer" / "tokenizer.py").touch()
    with pytest.raises(
        LatentcError, match=r"'tokenizer' \(CLIPTokenizer\) has no files: .*tokenizer is missing or empty"
    ):
        make_part(Folder(copied), "tokenizer", CLIPTokenizer)


def test_a_guider_is_made_of_its_settings(tmp_path: Path) -> None:
    from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance

    ClassifierFreeGuidance(guidance_scale=3.0, start=0.25).save_pretrained(tmp_path / "guider")
    made = make_part(Folder(tmp_path), "guider", ClassifierFreeGuidance)
    assert is_part(ClassifierFreeGuidance) and not is_part(BaseGuidance)
    assert (made.guidance_scale, made._start) == (3.0, 0.25)
