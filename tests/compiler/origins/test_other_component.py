"""Components that are not the model's own, and components that are left out."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import ModelSpec
from compiler.capture.capture import capture
from compiler.source import open_model


def spec(model, **components: object) -> ModelSpec:
    return ModelSpec(model=str(model), components={name: str(place) for name, place in components.items()})


def test_a_tiny_autoencoder_in_the_place_of_the_models_own(sd15, tmp_path):
    from diffusers import AutoencoderTiny

    AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(tmp_path / "taesd")
    source = open_model(spec(sd15, vae=tmp_path / "taesd"))
    assert source.component("vae").cls is AutoencoderTiny
    assert not source.is_folder
    captured = capture(source)
    assert captured.classes["vae"].endswith(":AutoencoderTiny")
    assert {method.component for method in captured.methods} == {"text_encoder", "unet", "vae"}


def test_a_file_of_weights_for_a_component(sd15):
    file = sd15 / "vae" / "diffusion_pytorch_model.safetensors"
    source = open_model(spec(sd15, vae=file))
    own = open_model(str(sd15)).component("vae").stored
    assert source.component("vae").stored == own
    assert source.component("vae").weight_files == (file,)


def test_none_is_null_in_the_index(sd15):
    source = open_model(spec(sd15, text_encoder="none"))
    assert "text_encoder" not in {component.name for component in source.components}
    assert b'"text_encoder": [\n    null,\n    null\n  ]' in source.files.read("model_index.json")


def test_a_component_that_does_not_fit(sd15, tmp_path):
    from diffusers import AutoencoderTiny

    AutoencoderTiny(
        latent_channels=3,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(tmp_path / "taesd")
    with pytest.raises(LatentcError) as caught:
        capture(open_model(spec(sd15, vae=tmp_path / "taesd")))
    assert "--component vae=" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("transformer", "folder", "has no component 'transformer'"),
        ("vae", "nowhere", "there is no folder and no file"),
        ("vae", "folder", "has no config.json"),
    ],
)
def test_what_is_no_component(sd15, tmp_path, name, place, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model_index.json").write_text("{}")
    with pytest.raises((LatentcError, UsageError), match=message):
        open_model(spec(sd15, **{name: tmp_path / place}))


def test_gguf_is_decoded_as_the_package_decodes_it(sd15, tmp_path):
    gguf = pytest.importorskip("gguf")
    state = load_file(sd15 / "vae" / "diffusion_pytorch_model.safetensors")
    key = next(k for k, t in state.items() if t.dim() == 2 and t.shape[1] % 32 == 0)
    writer = gguf.GGUFWriter(str(tmp_path / "vae.gguf"), "vae")
    for name, tensor in state.items():
        if name == key:
            blocks = gguf.quants.quantize(tensor.numpy(), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stored = open_model(spec(sd15, vae=tmp_path / "vae.gguf")).component("vae").stored
    blocks = gguf.quants.quantize(state[key].numpy(), gguf.GGMLQuantizationType.Q8_0)
    wanted = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
    for name, tensor in state.items():
        read = torch.from_numpy(stored[name].read())
        assert torch.equal(read, torch.from_numpy(wanted) if name == key else tensor), name
    whole = (tmp_path / "vae.gguf").read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LatentcError, match="truncated|not a sound GGUF file"):
        open_model(spec(sd15, vae=tmp_path / "half.gguf")).component("vae").stored  # noqa: B018


def test_weights_that_a_library_has_quantized_are_said_to_be(sd15, tmp_path):
    import json
    import shutil

    shutil.copytree(sd15 / "unet", tmp_path / "unet")
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
    }
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(LatentcError, match=r"quantized already, by bitsandbytes \(nf4\)") as caught:
        open_model(spec(sd15, unet=tmp_path / "unet")).component("unet").stored  # noqa: B018
    assert "--component unet=FOLDER" in caught.value.hint
