from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from artifacts.progress import Event
from runtimes.assemble import assemble
from runtimes.generate_options import parse_size
from runtimes.meter import Cancelled
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled

PROMPT = "a red circle"


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image)


def reference(compiled: Compiled, seeds: tuple[int, ...], **options: Any) -> list[Any]:
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    found = compiled.reference(PROMPT, generator=generators, num_images_per_prompt=len(seeds), **options)
    return list(found.images)


def test_the_image_is_diffusers_own(compiled: Compiled) -> None:
    result = compiled.pipeline().generate(PROMPT, "ugly", seed=5, steps=2, guidance=4.0, size=(32, 48))
    expected = reference(
        compiled, (5,), negative_prompt="ugly", num_inference_steps=2, guidance_scale=4.0, width=32, height=48
    )
    assert result.images[0].size == (32, 48)
    assert np.array_equal(pixels(result.images[0]), pixels(expected[0]))
    assert result.outputs == {} or "nsfw_content_detected" in result.outputs


def test_several_images_have_seeds_of_their_own_however_they_are_batched(compiled: Compiled) -> None:
    options: dict[str, Any] = {"seed": 7, "steps": 2, "images": 3, "size": "32x32"}
    result = compiled.pipeline().generate(PROMPT, **options)
    assert result.seeds == (7, 8, 9)
    expected = reference(compiled, (7, 8, 9), num_inference_steps=2, width=32, height=32)
    for found, wanted in zip(result.images, expected, strict=True):
        assert np.array_equal(pixels(found), pixels(wanted))
    narrow = tiny.manifest(batch=2)
    pool = tiny.TorchGraphs(compiled.reference, narrow)
    chunked = compiled.pipeline(pool=pool, manifest=narrow).generate(PROMPT, **options)
    assert [c[1]["sample"][1][0] for c in pool.calls if c[0] == "unet"] == [4, 4, 2, 2]
    for found, wanted in zip(chunked.images, expected, strict=True):
        assert np.abs(pixels(found).astype(int) - pixels(wanted)).max() <= 1


@pytest.mark.parametrize(
    ("batch", "images", "calls"),
    [
        ((1, 4), 6, [4, 2]),
        ((2, 2), 4, [2, 2]),
        ((2, 4), 5, [3, 2]),
        ((3, 4), 9, [3, 3, 3]),
        ((2, 2), 1, None),
        ((2, 2), 3, None),
        ((3, 4), 5, None),
    ],
)
def test_images_are_made_in_batches_that_the_artifact_takes(
    compiled: Compiled, batch: tuple[int, int], images: int, calls: list[int] | None
) -> None:
    declared = {"batch": DimRange(min=batch[0], max=batch[1])}
    manifest = compiled.manifest.model_copy(update={"sizes": compiled.manifest.sizes | declared})
    pool = tiny.TorchGraphs(compiled.reference, manifest)
    pipeline = compiled.pipeline(pool=pool, manifest=manifest)
    options: dict[str, Any] = {"steps": 1, "images": images, "size": "32x32", "guidance": 1.0}
    if calls is None:
        with pytest.raises(UsageError, match=f"images at once; {images} cannot") as caught:
            pipeline.generate(PROMPT, **options)
        assert "--images" in caught.value.hint and not pool.calls
        return
    assert len(pipeline.generate(PROMPT, **options).images) == images
    assert [inputs["sample"][1][0] for graph, inputs in pool.calls if graph == "unet"] == calls


def test_image_to_image(compiled: Compiled) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    start = PIL.Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    result = compiled.pipeline("image-to-image").generate(PROMPT, image=start, strength=0.6, steps=4, seed=5)
    pipe = StableDiffusionImg2ImgPipeline(**compiled.reference.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    expected = pipe(PROMPT, image=start, strength=0.6, num_inference_steps=4, generator=generator)
    assert np.array_equal(pixels(result.images[0]), pixels(expected.images[0]))
    with pytest.raises(UsageError, match=r"width of 16 to 64; found an image with a width of 128"):
        compiled.pipeline("image-to-image").generate(PROMPT, image=start.resize((128, 128)))


def test_a_random_seed_is_reported_and_repeats(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    first = pipe.generate(PROMPT, steps=1, size=(16, 16))
    second = pipe.generate(PROMPT, steps=1, size=(16, 16))
    again = pipe.generate(PROMPT, steps=1, size=(16, 16), seed=first.seed)
    assert first.seed != second.seed
    assert np.array_equal(pixels(first.images[0]), pixels(again.images[0]))
    assert not np.array_equal(pixels(first.images[0]), pixels(second.images[0]))


def test_timings_progress_and_parameters(compiled: Compiled) -> None:
    events: list[Event] = []
    pipe = compiled.pipeline()
    result = pipe.generate(PROMPT, seed=1, steps=3, size=(16, 16), progress=events.append)
    assert [(e.completed, e.total, e.unit) for e in events] == [(i, 3, "steps") for i in range(4)]
    calls = {name: time.calls for name, time in result.timings.components.items()}
    assert calls == {"text_encoder.forward": 2, "unet.forward": 3, "vae.decode": 1}
    assert len(result.timings.steps) == 3
    assert result.timings.total > sum(t.seconds for t in result.timings.components.values())
    assert json.loads(json.dumps(result.parameters)) == {
        "prompt": PROMPT,
        "steps": 3,
        "seed": 1,
        "images": 1,
        "width": 16,
        "height": 16,
        "scheduler": "DDIMScheduler",
        "task": "text-to-image",
        "model": "tiny",
        "target": "openvino",
        "precision": "fp32",
        "compute": "fp32",
    }


def test_cancelling_stops_and_leaves_the_pipeline_usable(compiled: Compiled) -> None:
    cancel = threading.Event()
    pool = compiled.pool()
    pipe = compiled.pipeline(pool=pool)

    def stop(event: Event) -> None:
        if event.completed == 1:
            cancel.set()

    with pytest.raises(Cancelled):
        pipe.generate(PROMPT, seed=1, steps=9, size=(16, 16), progress=stop, cancel=cancel)
    assert [c[0] for c in pool.calls].count("unet") == 1
    result = pipe.generate(PROMPT, seed=1, steps=1, size=(16, 16))
    expected = reference(compiled, (1,), num_inference_steps=1, width=16, height=16)
    assert np.array_equal(pixels(result.images[0]), pixels(expected[0]))


def test_another_scheduler_for_one_call_only(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    plain = pipe.generate(PROMPT, seed=1, steps=2, size=(16, 16))
    other = pipe.generate(PROMPT, seed=1, steps=2, size=(16, 16), scheduler="EulerDiscreteScheduler")
    again = pipe.generate(PROMPT, seed=1, steps=2, size=(16, 16))
    assert other.parameters["scheduler"] == "EulerDiscreteScheduler"
    assert not np.array_equal(pixels(plain.images[0]), pixels(other.images[0]))
    assert np.array_equal(pixels(plain.images[0]), pixels(again.images[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": 1}, "StableDiffusionPipeline has no parameter for 'mask' .*prompt, height"),
        ({"strength": 0.5}, "no parameter for 'strength'"),
        ({"gidance_scale": 3}, r"no parameter 'gidance_scale'[\s\S]*Did you mean 'guidance_scale'\?"),
        ({"guidance": 3.0, "guidance_scale": 3.0}, "'guidance_scale' is given twice"),
        ({"size": (128, 32)}, "compiled for a width of 16 to 64; found a width of 128"),
        ({"size": (32, 8)}, "compiled for a height of 16 to 64; found a height of 8"),
        ({"size": "big"}, "a size is written WIDTHxHEIGHT; found 'big'"),
        ({"images": 0}, "at least one image"),
        ({"images": 10**9}, "at most 10,000 images"),
        ({"images": 2, "seed": 2**63 - 1}, "the last would have more than there are"),
        ({"seed": -1}, "a seed is an integer of at least 0"),
    ],
)
def test_usage_errors_come_before_any_work(compiled: Compiled, options: dict[str, Any], message: str) -> None:
    pool = compiled.pool()
    with pytest.raises(UsageError, match=message):
        compiled.pipeline(pool=pool).generate(PROMPT, **options)
    assert pool.calls == []


def test_parameters_of_the_pipelines_own(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    result = pipe.generate(PROMPT, seed=1, steps=1, size=(16, 16), output_type="latent")
    assert result.images == ()
    assert result.outputs["images"].shape == (1, 4, 8, 8)
    steps: list[int] = []

    def callback(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return values

    pipe.generate(PROMPT, steps=2, size=(16, 16), callback_on_step_end=callback)
    assert steps == [0, 1]


def test_an_artifact_of_one_size_needs_no_size(compiled: Compiled) -> None:
    only = {n: DimRange(min=48, max=48) for n in ("width", "height")}
    fixed = compiled.manifest.model_copy(update={"sizes": only})
    result = compiled.pipeline(manifest=fixed).generate(PROMPT, steps=1)
    assert result.images[0].size == (48, 48)


def test_opening_is_lazy_and_closing_frees(compiled: Compiled) -> None:
    pool = compiled.pool()
    with compiled.pipeline(pool=pool) as pipe:
        assert pool.opened == []
        pipe.generate(PROMPT, steps=1, size=(16, 16))
        assert pool.opened == ["text_encoder", "unet", "vae_decoder"]
        pipe.open()
        assert "vae_encoder" in pool.opened
    assert pool.closed


def shells(compiled: Compiled) -> dict[str, Any]:
    return {n: getattr(compiled.reference, n) for n in ("unet", "vae", "text_encoder")}


def changed(compiled: Compiled, folder: Path, **entries: Any) -> Path:
    """The artifact's index with some entries changed."""
    import shutil

    shutil.copytree(compiled.root, folder, dirs_exist_ok=True)
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    return folder


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"scheduler": ["os", "PathLike"]}, "not a class of a trusted library"),
        ({"scheduler": ["evil", "Scheduler"]}, "not a class of a trusted library"),
        ({"scheduler": ["diffusers.utils", "logging"]}, "not a class of a trusted library"),
        ({"tokenizer": ["transformers", "Trainer"]}, "only schedulers, tokenizers and processors are loaded"),
        ({"tokenizer": ["transformers"]}, r"not \[library, class\]"),
        ({"tokenizer": ["transformers", "CLIPTextModel"]}, "'tokenizer', which is not compiled"),
        ({"_class_name": ["pipeline", "Evil"]}, "is not a diffusers index"),
    ],
)
def test_an_index_that_names_something_else(
    compiled: Compiled, tmp_path: Path, entries: dict[str, Any], message: str
) -> None:
    root = changed(compiled, tmp_path, **entries)
    with pytest.raises(LatentcError, match=message):
        assemble(root, "diffusers:StableDiffusionPipeline", shells(compiled))


def test_an_optional_module_that_is_not_compiled_is_left_out(compiled: Compiled, tmp_path: Path) -> None:
    root = changed(compiled, tmp_path, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    pipe = assemble(root, "diffusers:StableDiffusionPipeline", shells(compiled))
    assert pipe.safety_checker is None
    without = {n: m for n, m in shells(compiled).items() if n != "unet"}
    with pytest.raises(
        LatentcError, match=r"needs 'unet', which is not compiled \(compiled: vae, text_encoder\)"
    ):
        assemble(compiled.root, "diffusers:StableDiffusionPipeline", without)


def test_a_pipeline_class_that_is_none(compiled: Compiled) -> None:
    with pytest.raises(LatentcError, match="as a pipeline, which it is not"):
        assemble(compiled.root, "diffusers:DDIMScheduler", shells(compiled))


def test_sizes() -> None:
    assert parse_size("512x384") == (512, 384)
    assert parse_size("512") == (512, 512)
    assert parse_size((1, 2)) == (1, 2)
    assert parse_size(None) is None


def test_a_part_that_the_index_names_and_nobody_saved_is_the_constructors_own(tmp_path: Path) -> None:
    """diffusers saves no component that a constructor has a default for and the class does not list as optional."""
    import torch

    cls = "LongCatAudioDiTPipeline"
    modules: dict[str, Any] = {name: torch.nn.Module() for name in ("vae", "text_encoder", "transformer")}
    for module in modules.values():
        module.config = None
    named = {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": cls, **named}))
    pipe = assemble(tmp_path, f"diffusers:{cls}", {**modules, "tokenizer": torch.nn.Module()})
    assert pipe.scheduler.config.invert_sigmas and pipe.vae is modules["vae"]


def test_a_picture_for_an_ip_adapter_that_is_not_there_is_a_wrong_request(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    picture = PIL.Image.new("RGB", (32, 32))
    with pytest.raises(UsageError, match="the artifact has no IP-Adapter") as refused:
        pipe.generate("a", steps=1, size=32, ip_adapter_image=picture)
    assert "--ip-adapter FILE" in refused.value.hint
    with pytest.raises(UsageError, match="the artifact has no IP-Adapter"):
        pipe(
            "a", num_inference_steps=1, width=32, height=32, ip_adapter_image_embeds=[torch.ones(2, 1, 1, 8)]
        )
