"""Single files are read as diffusers' `from_single_file` reads them, weight by weight, without being loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import ModelSpec
from compiler.capture.weightless_modules import bind, build
from compiler.model_source import ModelSource
from compiler.source import open_model
from targets.graph.weights import Stored
from tests.compiler.origins import original_layouts


@pytest.fixture(scope="module")
def stable_diffusion(sd15, tmp_path_factory):
    """The tiny model's folder, and its single file."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(sd15)
    return sd15, original_layouts.stable_diffusion(
        pipe, tmp_path_factory.mktemp("file") / "model.safetensors"
    )


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    """A tiny SDXL whose text encoders are of two widths: diffusers tells them apart by that."""
    from transformers import CLIPTextModelWithProjection

    from tests.sweep.models import CASES

    folder = tmp_path_factory.mktemp("sdxl")
    pipe = CASES["sdxl"].build()
    config = pipe.text_encoder_2.config
    config.hidden_size, config.intermediate_size = 64, 96
    pipe.text_encoder_2 = CLIPTextModelWithProjection(config).eval()
    pipe.save_pretrained(folder / "model")
    return folder / "model", original_layouts.sdxl(pipe, folder / "model.safetensors")


def opened(file: Path, config: Path) -> ModelSource:
    return open_model(ModelSpec(model=str(file), config=str(config)))


@pytest.mark.parametrize("name", ["stable_diffusion", "sdxl"])
def test_every_weight_is_what_from_single_file_loads(name, request):
    import diffusers

    folder, file = request.getfixturevalue(name)
    source = opened(file, folder)
    pipeline = getattr(diffusers, source.pipeline)
    wanted = pipeline.from_single_file(str(file), config=str(folder), local_files_only=True)
    origins = []
    for component in source.modules:
        weights = bind(build(component, FakeTensorMode(allow_non_fake_inputs=True)), component)
        expected = getattr(wanted, component.name).state_dict()
        assert weights.keys() == expected.keys()
        for key, origin in weights.items():
            assert np.array_equal(origin.read().astype(np.float32), expected[key].float().numpy()), key
        origins.extend(weights.values())
        assert component.weight_files == (file,)
    # Most are only called otherwise: bytes of the file as they are.
    assert sum(isinstance(origin, Stored) for origin in origins) > 0.9 * len(origins)


def test_scaled_8_bit_floats_are_multiplied_by_their_scales(stable_diffusion, tmp_path):
    folder, file = stable_diffusion
    state = load_file(file)
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    scaled = dict(state)
    scaled[key] = (state[key] / 0.02).to(torch.float8_e4m3fn)
    scaled[key.replace("weight", "scale_weight")] = torch.tensor(0.02)
    scaled["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    save_file(scaled, tmp_path / "scaled.safetensors")
    component = opened(tmp_path / "scaled.safetensors", folder).component("unet")
    origin = component.stored["mid_block.attentions.0.proj_in.weight"]
    wanted = scaled[key].float() * 0.02
    assert np.array_equal(origin.read().astype(np.float32), wanted.numpy())


def test_offline_the_message_names_the_kind_of_model_and_the_option(stable_diffusion):
    _, file = stable_diffusion
    with pytest.raises(LatentcError, match="of the kind of .*stable-diffusion") as caught:
        open_model(str(file))
    assert "--config FOLDER" in caught.value.hint


def test_a_file_of_one_component_names_what_it_lacks(stable_diffusion, tmp_path):
    folder, file = stable_diffusion
    part = {k: v for k, v in load_file(file).items() if k.startswith("model.diffusion_model.")}
    save_file(part, tmp_path / "unet.safetensors")
    for name in ("vae", "text_encoder"):  # A folder of configurations alone.
        for weights in (folder / name).glob("*.safetensors"):
            assert weights.exists()
    source = opened(tmp_path / "unet.safetensors", folder)
    # What is not in the file is the folder's own, as in diffusers.
    assert source.component("text_encoder").weight_files[0].parent == folder / "text_encoder"
    with pytest.raises(LatentcError, match="cannot be read as 'vae'") as caught:
        source.component("vae").stored  # noqa: B018
    assert "--component vae=FOLDER" in caught.value.hint


def test_a_pickle_is_told_as_one(sd15, tmp_path):
    file = tmp_path / "model.safetensors"
    torch.save({"a": torch.ones(2)}, file)
    with pytest.raises(LatentcError, match="is a pickle"):
        opened(file, sd15)


def test_a_configuration_is_for_single_files(sd15):
    with pytest.raises(UsageError, match="--config is for"):
        open_model(ModelSpec(model=str(sd15), config=str(sd15)))
