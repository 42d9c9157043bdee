"""Single files are read as diffusers' `from_single_file` reads them, weight by weight, without being loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from tests.compiler.origins import original_layouts, transformer_layouts


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


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The built-in model's folder, and its single file."""
    from diffusers import StableDiffusionPipeline

    from compiler.source import local_folder

    folder = local_folder("shapes")
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    return folder, original_layouts.stable_diffusion(pipe, tmp_path_factory.mktemp("file") / "m.safetensors")


def by_width(projected: bool) -> tuple[Any, Any]:
    """Two CLIPs of two widths, which tell them apart; the smaller one's projection is none, as in the files."""
    from tests.sweep import text

    small = text.clip_text(hidden=16, projection=16 if projected else None)
    if projected:
        small.text_projection.weight.data = torch.eye(16)
    return small, text.clip_text(hidden=32, projection=16, seed=1)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    """A tiny SD 3."""
    from tests.sweep.models import CASES

    folder = tmp_path_factory.mktemp("sd3")
    pipe = CASES["sd3"].build()
    pipe.text_encoder, pipe.text_encoder_2 = by_width(projected=True)
    pipe.save_pretrained(folder / "model")
    return folder / "model", transformer_layouts.sd3(pipe, folder / "model.safetensors")


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A tiny FLUX; diffusers' conversion is told its width, which it takes for FLUX.1's."""
    from diffusers.loaders import single_file_model, single_file_utils

    from tests.sweep.models import CASES

    folder = tmp_path_factory.mktemp("flux")
    pipe = CASES["flux"].build()
    pipe.save_pretrained(folder / "model")
    convert = transformer_layouts.of_width(
        single_file_utils.convert_flux_transformer_checkpoint_to_diffusers, 3072, 32
    )
    kind = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kind, "checkpoint_mapping_fn", convert)
        yield folder / "model", transformer_layouts.flux(pipe, folder / "model.safetensors")


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


@pytest.mark.parametrize("name", ["shapes", "sd3", "flux"])
def test_every_weight_is_the_folders(name, request):
    folder, file = request.getfixturevalue(name)
    ours, plain = opened(file, folder), open_model(str(folder))
    for component in ours.modules:
        weights, expected = (
            bind(build(part, FakeTensorMode(allow_non_fake_inputs=True)), part)
            for part in (component, plain.component(component.name))
        )
        assert component.weight_files == (file,)
        assert weights.keys() == expected.keys()
        for key, origin in weights.items():
            assert np.array_equal(origin.read(), expected[key].read()), (component.name, key)


def test_a_flux_in_scaled_8_bit_floats(flux, tmp_path):
    folder, file = flux
    state = load_file(file)
    key = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"
    scaled = state | {
        key: (state[key] / 0.02).to(torch.float8_e4m3fn),
        key.replace("weight", "scale_weight"): torch.tensor(0.02),
        "model.diffusion_model.scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn),
    }
    save_file(scaled, tmp_path / "scaled.safetensors")
    component = opened(tmp_path / "scaled.safetensors", folder).component("transformer")
    weights = bind(build(component, FakeTensorMode(allow_non_fake_inputs=True)), component)
    wanted = (scaled[key].float() * 0.02).chunk(3)
    for name, tensor in zip(("to_q", "to_k", "to_v"), wanted, strict=True):
        read = weights[f"transformer_blocks.0.attn.{name}.weight"].read()
        assert np.array_equal(read.astype(np.float32), tensor.numpy())


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
