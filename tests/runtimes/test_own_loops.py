"""Components of a loaded artifact in other people's loops, and its pipeline as one of another class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from artifacts.call_trees import ObjectNode
from artifacts.errors import UsageError
from artifacts.manifest import LeftOut, Manifest, MethodRecord
from runtimes.generation import Generator
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled

OUTPUT = "diffusers.models.unets.unet_2d_condition:UNet2DConditionOutput"


def manifest(compiled: Compiled) -> Manifest:
    """With what comes back of the UNet and of the encoder where `return_dict` is the other of its values."""
    others = {
        "unet.forward": ObjectNode(class_path=OUTPUT, items={"sample": tiny.tensor("out_sample")}),
        "vae.encode": tiny.in_tuple(
            ObjectNode(
                class_path="diffusers.models.autoencoders.vae:DiagonalGaussianDistribution",
                items={"parameters": tiny.tensor("latent_parameters")},
            )
        ),
    }

    def changed(component: str, record: MethodRecord) -> MethodRecord:
        return record.model_copy(update={"other_result": others.get(f"{component}.{record.method}")})

    components = tuple(
        part.model_copy(update={"methods": tuple(changed(part.name, record) for record in part.methods)})
        for part in compiled.manifest.components
    )
    return compiled.manifest.model_copy(update={"components": components})


@pytest.fixture
def pipe(compiled: Compiled) -> Any:
    return compiled.pipeline(manifest=manifest(compiled)).diffusers


def test_a_denoiser_is_called_as_in_every_tutorial(compiled: Compiled, pipe: Any) -> None:
    latents, text = torch.randn(2, 4, 16, 16), torch.randn(2, tiny.TEXT_LENGTH, 8)
    with torch.no_grad():
        expected = compiled.reference.unet(latents, 7, encoder_hidden_states=text).sample
        output = pipe.unet(latents, 7, encoder_hidden_states=text)
        assert torch.equal(output.sample, expected)
        assert torch.equal(pipe.unet(latents, torch.tensor(7), text, return_dict=False)[0], expected)
        decoded = pipe.vae.decode(latents).sample
        assert torch.equal(decoded, compiled.reference.vae.decode(latents).sample)
        picture = torch.rand(1, 3, 32, 32)
        (distribution,) = pipe.vae.encode(picture, return_dict=False)
        assert torch.equal(distribution.mean, pipe.vae.encode(picture).latent_dist.mean)


def test_a_sibling_is_made_of_the_same_components(compiled: Compiled, pipe: Any) -> None:
    arguments: dict[str, Any] = {
        "prompt": "a cat",
        "image": Image.linear_gradient("L").convert("RGB").resize((32, 32)),
        "strength": 0.8,
        "num_inference_steps": 3,
        "output_type": "np",
    }
    pictures = []
    for base in (pipe, compiled.reference):
        sibling = StableDiffusionImg2ImgPipeline.from_pipe(base)
        sibling.set_progress_bar_config(disable=True)
        pictures.append(sibling(**arguments, generator=torch.Generator().manual_seed(1)).images)
    assert type(pipe.unet) in (type(compiled.reference.unet),)
    assert np.allclose(*pictures, atol=1e-5)


def test_a_call_takes_what_the_pipeline_takes(compiled: Compiled) -> None:
    """Latents, callbacks, output types, pictures as tensors, generators: in the call and in `generate`."""
    seen: list[int] = []

    def look(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return {"latents": tensors["latents"] * 0.5}

    options: dict[str, Any] = {
        "latents": torch.randn(1, 4, 16, 16),
        "callback_on_step_end": look,
        "output_type": "latent",
        "cross_attention_kwargs": None,
        "prompt": "a cat",
        "height": 32,
        "width": 32,
    }
    with torch.no_grad():
        expected = compiled.reference(num_inference_steps=2, **options).images
    pipeline = compiled.pipeline()
    assert torch.allclose(pipeline(num_inference_steps=2, **options).images, expected, atol=1e-5)
    options |= {"size": (options.pop("width"), options.pop("height")), "steps": 2}
    assert torch.allclose(pipeline.generate(**options).outputs["images"], expected, atol=1e-5)
    assert seen == [0, 1] * 3


def test_generators_of_ones_own(compiled: Compiled) -> None:
    def given() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (5, 9)]

    def draw(pipeline: Generator, **options: Any) -> Any:
        options |= {"steps": 2, "size": (32, 32), "output_type": "np"}
        return pipeline.generate("a cat", **options).outputs["images"]

    pipeline = compiled.pipeline()
    pictures = np.concatenate([draw(pipeline, seed=seed) for seed in (5, 9)])
    assert np.allclose(draw(pipeline, images=2, generator=given()), pictures, atol=1e-5)


def test_a_picture_to_start_from_may_be_a_tensor_or_an_array(compiled: Compiled) -> None:
    pipeline = compiled.pipeline("image-to-image")
    picture = Image.linear_gradient("L").convert("RGB").resize((32, 32))
    array = np.asarray(picture, np.float32)[None] / 255
    drawn = [
        pipeline.generate("a cat", image=image, steps=3, seed=1, output_type="np").outputs["images"]
        for image in (picture, array, torch.from_numpy(array).permute(0, 3, 1, 2))
    ]
    assert np.allclose(drawn[0], drawn[1], atol=1e-5) and np.allclose(drawn[0], drawn[2], atol=1e-5)


def test_a_number_of_pictures_has_one_name(compiled: Compiled) -> None:
    with pytest.raises(UsageError, match="'num_images_per_prompt' is given by 'images'") as caught:
        compiled.pipeline().generate("a cat", num_images_per_prompt=2)
    assert "--images 2" in caught.value.hint


def test_parts_that_are_left_out_are_told(compiled: Compiled) -> None:
    part = LeftOut(name="safety_checker", class_name="Checker", reason="it is optional")
    manifest = compiled.manifest.model_copy(update={"left_out": (part,)})
    assert compiled.pipeline().diffusers.safety_checker is None
    pool = compiled.pool()
    pool.note = ""  # type: ignore[attr-defined]
    note = compiled.pipeline(pool=pool, manifest=manifest).note
    assert note == "the artifact does not have the model's safety_checker (Checker)."
