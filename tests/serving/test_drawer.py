"""The process that draws, without a process: what it asks of a pipeline, and when unfinished pictures are shown."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from PIL import Image

from artifacts.errors import UsageError
from artifacts.manifest import Manifest
from latentc.serving import input_pictures
from latentc.serving.drawer import Drawer
from latentc.serving.engine import LoadOptions
from latentc.serving.previews import decode, preview_steps, shows_latents
from runtimes.conditions import Needs
from runtimes.meter import Cancelled
from runtimes.pipeline import Pipeline
from tests.runtimes import tiny

OPTIONS = LoadOptions("cpu", "fp32", strict=True, memory=1 << 30)


@pytest.mark.parametrize(
    ("steps", "previews", "shown"),
    [
        (20, 0, []),
        (20, 1, [10]),
        (20, 3, [5, 10, 15]),
        (6, 3, [1, 3, 4]),
        (2, 3, [1]),
        (1, 3, []),
        (0, 3, []),
    ],
)
def test_previews_are_spaced_evenly_and_never_the_picture_itself(
    steps: int, previews: int, shown: list[int]
) -> None:
    assert preview_steps(steps, previews) == shown


@pytest.fixture
def drawer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drawer:
    """Around a tiny pipeline."""
    reference = tiny.stable_diffusion(tmp_path)
    root, manifest = tiny.write_artifact(reference, tmp_path / "artifact"), tiny.manifest()

    graphs: Any = tiny.TorchGraphs(reference, manifest)
    graphs.note = ""

    def load(path: str, **options: Any) -> Pipeline:
        assert options == {**asdict(OPTIONS), "accelerate": "off"}
        return Pipeline(root, manifest, next(iter(manifest.pipelines)), graphs)

    monkeypatch.setattr("runtimes.pipeline.load", load)
    monkeypatch.setattr("latentc.serving.drawer.tell", lambda event: None)
    made = Drawer("artifact", asdict(OPTIONS))
    opened = made(json.dumps({"do": "open"}))
    assert opened["previews"] and opened["scheduler"] in opened["schedulers"]
    return made


def job(batch: int = 0, **changes: Any) -> str:
    picture = {"prompt": "a", "negative_prompt": None, "seed": 1, "format": "png", "quality": None}
    options = {"size": None, "steps": 2, "guidance": None, "scheduler": None, "strength": None}
    common = {
        "do": "draw",
        "batch": batch,
        "task": "text-to-image",
        "image": None,
        "mask": None,
        "control_images": [],
        "ip_adapter_images": [],
        "previews": 1,
    }
    return json.dumps({**common, "options": options, "pictures": [picture], **changes})


def test_a_message_cancels_a_batch_also_before_it_has_begun(drawer: Drawer) -> None:
    drawer._hear({"cancel": 3})
    with pytest.raises(Cancelled):
        drawer(job(batch=3))
    assert len(drawer(job(batch=4))["pictures"]) == 1


def test_another_task_of_the_artifact_is_drawn_with_the_same_graphs(drawer: Drawer) -> None:
    pipeline = drawer._pipelines["text-to-image"]
    assert isinstance(pipeline.manifest, Manifest)
    for task in pipeline.manifest.pipelines:
        assert pipeline.with_task(task)._graphs is pipeline._graphs
    with pytest.raises(UsageError, match="no task 'dance'"):
        pipeline.with_task("dance")


def test_every_picture_of_a_request_is_made_by_one_function(
    drawer: Drawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, given = drawer._pipelines["text-to-image"], dict[str, Any]()

    def generate(**options: Any) -> Any:
        given.update(options)
        raise UsageError("seen.")

    monkeypatch.setattr(pipeline, "generate", generate)
    monkeypatch.setattr(input_pictures, "as_meant", lambda image: Image.new("L", (3, 5), 77))
    written = io.BytesIO()
    Image.new("I;16", (8, 8), 700).save(written, format="PNG")
    sent = base64.b64encode(written.getvalue()).decode()
    with pytest.raises(UsageError, match="seen"):
        drawer(job(image=sent, mask=sent))
    checked = input_pictures.check_picture(written.getvalue(), "image", 64)
    for image, mode in ((given["image"], "RGB"), (given["mask"], "L"), (checked, "L")):
        assert (image.size, image.mode) == ((3, 5), mode) and image.convert("L").getpixel((0, 0)) == 77


@pytest.mark.parametrize(("task", "hint"), [("image-to-image", "takes an 'image'"), ("text-to-image", "")])
def test_a_refusal_names_the_picture_that_may_be_missing(
    drawer: Drawer, monkeypatch: pytest.MonkeyPatch, task: str, hint: str
) -> None:
    def generate(**options: Any) -> Any:
        raise UsageError("it refuses this.") from TypeError("NoneType")

    monkeypatch.setattr(drawer._pipelines[task], "generate", generate)
    with pytest.raises(UsageError, match="refuses this") as refused:
        drawer(job(task=task))
    assert hint in refused.value.hint and bool(refused.value.hint) == bool(hint)


def test_pictures_to_follow_are_the_pipeline_s_own_arguments(
    drawer: Drawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def generate(**options: Any) -> Any:
        given.update(options)
        raise UsageError("seen.")

    pipeline, written = drawer._pipelines["text-to-image"], io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(written, format="PNG")
    sent = [base64.b64encode(written.getvalue()).decode()]
    with pytest.raises(UsageError, match="no ControlNet or T2I-Adapter for 'control_image'"):
        drawer(job(control_images=sent))
    monkeypatch.setattr(pipeline, "generate", generate)
    drawer._needs["text-to-image"] = Needs(False, False, 1, 1, "")
    monkeypatch.setattr("runtimes.conditions.control_argument", lambda known: "image")
    for missing in ({"control_images": sent}, {"ip_adapter_images": sent}):
        with pytest.raises(UsageError, match="the model needs"):
            drawer(job(**missing))
    with pytest.raises(UsageError, match="seen"):
        drawer(job(control_images=sent, ip_adapter_images=sent))
    assert given["image"].getpixel((0, 0)) == (1, 2, 3) and len(given["ip_adapter_image"]) == 1


def packed() -> FluxPipeline:
    """A pipeline whose latents are packed, of which nothing but the end is there."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.36,
        shift_factor=0.12,
    ).eval()
    absent = dict.fromkeys("scheduler text_encoder tokenizer text_encoder_2 tokenizer_2 transformer".split())
    return FluxPipeline(vae=vae, **absent)


@torch.no_grad()
def test_packed_latents_are_shown_as_the_pipeline_unpacks_them() -> None:
    pipeline = packed()
    assert shows_latents(pipeline)
    latents = torch.randn(2, 4, 16, 24)
    unscaled = latents / 0.36 + 0.12
    expected = pipeline.image_processor.postprocess(pipeline.vae.decode(unscaled).sample, output_type="pil")
    tokens = FluxPipeline._pack_latents(latents, 2, 4, 16, 24)
    for image, drawn in zip(decode(pipeline, tokens, (48, 32)), expected, strict=True):
        assert image.size == (48, 32)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(drawn))
    assert decode(pipeline, tokens, (64, 48)) == [], "of another size"
    assert decode(pipeline, tokens) == [], "the pipeline's own size is another"


@pytest.mark.parametrize("change", [{"latents_mean": [0.0]}, {"scaling_factor": None}])
def test_latents_of_another_kind_are_not_shown(change: dict[str, Any]) -> None:
    pipeline = packed()
    pipeline.vae.register_to_config(**change)
    assert not shows_latents(pipeline)
    pipeline = packed()
    pipeline._unpack_latents = lambda latents, sizes, vae_scale_factor: latents
    assert not shows_latents(pipeline)


def test_a_grey_picture_of_sixteen_bits_is_what_it_shows() -> None:
    written = io.BytesIO()
    Image.fromarray(np.full((8, 16), 40000, np.uint16)).save(written, format="PNG")
    for picture in (
        input_pictures.read_picture(written.getvalue(), "RGB"),
        input_pictures.check_picture(written.getvalue(), "image", 1000).convert("RGB"),
    ):
        assert picture.size == (16, 8) and picture.getpixel((3, 3)) == (156, 156, 156)
