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


@pytest.mark.slow
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


@pytest.mark.parametrize("name", ["unet", "scheduler"])
def test_a_component_that_the_pipeline_cannot_do_without(sd15, name):
    with pytest.raises(LatentcError) as caught:
        capture(open_model(spec(sd15, **{name: "none"})))
    assert caught.value.message.startswith(f"StableDiffusionPipeline cannot do without '{name}': ")
    assert "leave out --component" in caught.value.hint


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


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8Config"}}}, "Int8Config"),
        ({"quant_method": "torchao", "quant_type": "int8wo"}, "int8wo"),
        ({"quant_method": "sdnq", "weights_dtype": "uint4", "use_svd": True}, "uint4"),
        ({"quant_method": "quanto", "load_in_4bit": True}, "4bit"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pickled", [False, True])
def test_weights_that_a_library_has_quantized_are_said_to_be(sd15, tmp_path, settings, said, pickled):
    import json
    import shutil

    unet = shutil.copytree(sd15 / "unet", tmp_path / "unet")
    config = json.loads((unet / "config.json").read_text())
    (unet / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    if pickled:
        (unet / "diffusion_pytorch_model.safetensors").rename(unet / "diffusion_pytorch_model.bin")
    expected = rf"'unet' are quantized already, by {settings['quant_method']} \({said}\)"
    with pytest.raises(LatentcError, match=expected) as caught:
        open_model(spec(sd15, unet=unet))
    assert "--component unet=FOLDER" in caught.value.hint
    whole = shutil.copytree(sd15, tmp_path / "whole", ignore=shutil.ignore_patterns("unet"))
    shutil.copytree(unet, whole / "unet")
    component = open_model(ModelSpec(model=str(whole))).component("unet")
    for read in ("stored", "weight_files"):
        with pytest.raises(LatentcError, match=expected):
            getattr(component, read)


def test_weights_of_4_and_8_bits_are_as_bitsandbytes_decodes_them(sd15, tmp_path):
    import json
    import shutil

    functional = pytest.importorskip("bitsandbytes.functional")
    from safetensors.torch import save_file

    shutil.copytree(sd15 / "unet", tmp_path / "unet")
    state = load_file(sd15 / "unet" / "diffusion_pytorch_model.safetensors")
    names = [n for n in state if n.endswith((".to_q.weight", ".to_k.weight"))]
    saved, wanted = dict(state), dict(state)
    for number, name in enumerate(names):
        if name.endswith("to_q.weight"):
            packed, how = functional.quantize_4bit(
                state[name], quant_type="nf4", compress_statistics=bool(number % 4), blocksize=64
            )
            saved |= {name: packed} | {f"{name}.{k}": v for k, v in how.as_dict(packed=True).items()}
            wanted[name] = functional.dequantize_4bit(packed, how)
        else:
            scale = state[name].abs().amax(1)
            saved[name] = (state[name] / scale[:, None] * 127).round().to(torch.int8)
            saved[name.replace("weight", "SCB")] = scale
            saved[name.replace("weight", "weight_format")] = torch.tensor(0, dtype=torch.uint8)
            wanted[name] = functional.int8_vectorwise_dequant(saved[name], scale)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(saved, file)
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))

    source = open_model(spec(sd15, unet=tmp_path / "unet"))
    unet = source.component("unet")
    assert not source.is_folder and b"quantization_config" not in unet.config
    assert unet.stored.keys() == wanted.keys()
    for name, origin in unet.stored.items():
        assert torch.equal(torch.from_numpy(origin.read()).float(), wanted[name].float()), name

    del saved[next(n for n in saved if n.endswith("to_q.weight.absmax"))]
    save_file(saved, file)
    with pytest.raises(LatentcError, match="is not as that writes it"):
        open_model(spec(sd15, unet=tmp_path / "unet")).component("unet").stored  # noqa: B018


def test_another_scheduler_is_of_the_class_that_its_folder_names(sd15, tmp_path):
    from diffusers import EulerDiscreteScheduler

    EulerDiscreteScheduler(beta_start=0.001).save_pretrained(tmp_path / "euler")
    source = open_model(spec(sd15, scheduler=tmp_path / "euler"))
    assert source.component("scheduler").cls is EulerDiscreteScheduler
    assert b'"EulerDiscreteScheduler"' in source.files.read("model_index.json")
    assert b'"beta_start": 0.001' in source.files.read("scheduler/scheduler_config.json")


@pytest.mark.parametrize(
    ("name", "place"), [("scheduler", "vae"), ("vae", "scheduler"), ("tokenizer", "unet")]
)
def test_a_component_of_another_kind(sd15, name, place):
    with pytest.raises(UsageError, match=rf"{place} holds a \w+ \(\w+\); '{name}' is a \w+"):
        open_model(spec(sd15, **{name: sd15 / place}))
