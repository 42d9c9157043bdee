"""The capture of a real pipeline, and weights found under the names of today's and of older files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from artifacts.progress import Event
from compiler.capture.capture import Capture, capture
from compiler.capture.declared_sizes import SizeRange
from compiler.capture.weightless_modules import bind, build
from compiler.model_source import ComponentSource
from compiler.plan import parameters
from compiler.source import open_model

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def captured(sd15, events) -> Capture:
    span = DimRange(min=32, max=64)
    size = SizeRange(width=span, height=span)
    return capture(open_model(str(sd15)), (), size, DimRange(min=1, max=2), {}, events.append)


def test_what_the_pipeline_calls_is_what_is_compiled(captured):
    assert [m.folder for m in captured.methods] == ["text_encoder", "unet", "vae_decoder"]
    assert captured.pipelines.keys() == {"text-to-image"}
    text, unet, decoder = captured.methods
    assert [s.name for s in text.inputs] == ["input_ids"]
    assert [s.name for s in unet.inputs] == ["sample", "timestep", "encoder_hidden_states"]
    assert [s.name for s in unet.outputs] == ["out_sample"]
    assert [s.name for s in decoder.inputs] == ["latent_sample"]
    assert [s.name for s in decoder.outputs] == ["sample"]
    assert unet.inputs[0].shape == ("batch", 4, "height", "width")
    assert unet.dims["height"].min < unet.dims["height"].max
    assert decoder.outputs[0].shape[1] == 3
    assert all(m.fixed == () for m in captured.methods)
    # Nobody calls the encoder, so nothing of it is counted.
    assert not any(name.startswith("encoder.") for name in decoder.used)
    assert any(name.startswith("decoder.") for name in decoder.used)


def test_what_comes_back_is_known_for_both_values_of_return_dict(captured):
    text, unet, decoder = captured.methods
    assert unet.arguments["return_dict"].value is False and unet.result.kind == "tuple"
    assert unet.other_result.class_path.endswith(":UNet2DConditionOutput")
    assert [leaf.name for leaf in unet.other_result.items.values()] == ["out_sample"]
    assert decoder.other_result.class_path.endswith(":DecoderOutput")
    assert text.other_result is None


def test_a_part_that_works_on_finished_pictures_is_left_out_and_told(tmp_path):
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    from tests.sweep import sd, text

    tower = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    }  # fmt: skip
    vision = tower | {"image_size": 32, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=tower, vision_config=vision, projection_dim=32)
    )
    parts = sd.sd15().components | {"safety_checker": checker, "feature_extractor": text.clip_images()}
    StableDiffusionPipeline(**parts).save_pretrained(tmp_path)
    span = DimRange(min=32, max=32)
    (part,) = (found := capture(open_model(str(tmp_path)), (), SizeRange(span, span))).left_out
    assert (part.name, part.class_name) == ("safety_checker", "StableDiffusionSafetyChecker")
    (note,) = found.notes
    assert note == (
        "safety_checker (StableDiffusionSafetyChecker): left out, because it is optional and runs on finished "
        "pictures."
    )


@pytest.mark.slow
def test_how_much_a_control_weighs_is_an_input(tmp_path):
    from tests.sweep.models import CASES

    CASES["sd15-controlnet"].build().save_pretrained(tmp_path)
    side = DimRange(min=32, max=32)
    controlnet = capture(open_model(str(tmp_path)), (), SizeRange(side, side)).methods[1]
    (scale,) = (spec for spec in controlnet.inputs if spec.name == "conditioning_scale")
    assert controlnet.component == "controlnet" and (scale.dtype, scale.shape) == ("float32", ())


def test_every_weight_that_is_used_is_stored_or_computed(captured):
    for method in captured.methods:
        stored = captured.weights[method.component]
        assert parameters(method, captured) > 1000
        assert all("position" in name for name in method.used - stored.keys())


def test_the_first_shapes_are_the_example_and_no_size_is_one(captured):
    for method in captured.methods:
        assert 1 not in method.shapes[0].values()
        assert len(method.shapes) > 1


def test_progress_is_told(captured, events):
    tasks = [event.task for event in events]
    assert "unet: building without weights" in tasks
    assert Event("text-to-image: dry run", 5, 5) in events


def test_a_task_that_does_not_exist(sd15):
    with pytest.raises(UsageError, match="there is no task 'upscale'"):
        capture(open_model(str(sd15)), ("upscale",), SizeRange(*[DimRange(min=32, max=32)] * 2))


@pytest.mark.parametrize(("low", "high"), [(2, 2), (3, 4)])
def test_a_batch_that_begins_above_one_encodes_its_one_prompt_too(sd15, low, high):
    size = SizeRange(*[DimRange(min=32, max=32)] * 2)
    found = capture(open_model(str(sd15)), (), size, DimRange(min=low, max=high))
    text, unet, decoder = found.methods
    assert text.dims == {"batch": DimRange(min=1, max=high)}
    assert decoder.dims == {"batch": DimRange(min=low, max=high)}
    assert unet.dims == {"batch": DimRange(min=low, max=2 * high)}


def test_a_component_that_the_index_has_as_null_is_left_out(tmp_path):
    from diffusers import StableDiffusion3Pipeline

    from tests.sweep.flow import sd3

    absent = {"text_encoder_3": None, "tokenizer_3": None}  # not among the class's optional components
    StableDiffusion3Pipeline(**(sd3().components | absent)).save_pretrained(tmp_path)
    found = capture(open_model(str(tmp_path)), (), SizeRange(*[DimRange(min=32, max=32)] * 2))
    assert [m.folder for m in found.methods] == [
        "text_encoder",
        "text_encoder_2",
        "transformer",
        "vae_decoder",
    ]


def test_a_component_of_a_renamed_class_is_loaded(sd15, tmp_path):
    from tests.sweep.text import clip_images

    folder = tmp_path / "model"
    shutil.copytree(sd15, folder)
    clip_images().save_pretrained(folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    found = capture(open_model(str(folder)), (), SizeRange(*[DimRange(min=32, max=32)] * 2))
    assert len(found.methods) == 3


# --- building and binding ------------------------------------------------------------------------


@pytest.fixture
def changed(sd15, tmp_path) -> Callable[..., ComponentSource]:
    """A component of the tiny model, its weights rewritten."""

    def make(name: str, change: Callable[[Tensors], Tensors]) -> ComponentSource:
        component = next(c for c in open_model(str(sd15)).components if c.name == name)
        folder = tmp_path / name
        shutil.copytree(component.folder, folder)
        (file,) = component.weight_files
        save_file(change(load_file(file)), folder / file.name)
        return ComponentSource(name, component.library, component.class_name, folder)

    return make


def made(component: ComponentSource) -> torch.nn.Module:
    return build(component, FakeTensorMode(allow_non_fake_inputs=True))


def check_bound(component: ComponentSource) -> None:
    """Each parameter is bound to the tensor that the component's own library loads into it."""
    found = bind(made(component), component)
    loaded = component.cls.from_pretrained(component.folder, torch_dtype=torch.float32)
    for name, parameter in loaded.named_parameters(remove_duplicate=False):
        np.testing.assert_array_equal(found[name].read(), parameter.detach().numpy(), err_msg=name)


def test_a_module_has_no_weights_and_real_buffers(sd15):
    text = next(c for c in open_model(str(sd15)).components if c.name == "text_encoder")
    module = made(text)
    assert not module.training
    assert all(isinstance(p, FakeTensor) and p.dtype == torch.float32 for p in module.parameters())
    buffers = list(module.buffers())
    assert buffers and not any(isinstance(b, FakeTensor) for b in buffers)


def test_a_missing_key_is_named(changed):
    def without(tensors: Tensors) -> Tensors:
        return {k: v for k, v in tensors.items() if k not in ("conv_in.weight", "conv_out.bias")}

    component = changed("unet", without)
    message = (
        r"'unet' has 2 weights that are not in diffusion_pytorch_model.safetensors: conv_\w+.*, conv_\w+"
    )
    with pytest.raises(LatentcError, match=message) as caught:
        bind(made(component), component)
    assert "conv_in.weight" in caught.value.message and "download it again" in caught.value.hint


def test_a_key_of_another_shape_is_named(changed):
    component = changed("unet", lambda tensors: tensors | {"conv_in.bias": np.zeros(7, np.float32)})
    with pytest.raises(LatentcError, match=r"'conv_in.bias' in .* has the shape \[7\]; 'unet' needs \[16\]"):
        bind(made(component), component)


def test_a_config_that_does_not_fit_the_class(changed):
    component = changed("unet", dict)
    config = component.folder / "config.json"
    config.write_text(config.read_text().replace("CrossAttnDownBlock2D", "NoSuchBlock2D"))
    with pytest.raises(LatentcError, match=r"'unet' \(UNet2DConditionModel\) cannot be built"):
        made(component)


def test_diffusers_old_names_of_attention_weights(changed):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: Tensors) -> Tensors:
        found = {}
        for key, value in tensors.items():
            for new, deprecated in old.items():
                key = key.replace(f".{new}.", f".{deprecated}.")
            found[key] = value
        assert any(".query." in key for key in found)
        return found

    check_bound(changed("vae", rename))


@pytest.mark.parametrize("prefixed", [True, False])
def test_transformers_names_with_and_without_the_models_prefix(changed, prefixed):
    def rename(tensors: Tensors) -> Tensors:
        plain = {key.removeprefix("text_model."): value for key, value in tensors.items()}
        # As the files of Stable Diffusion 1.5 have it.
        plain["embeddings.position_ids"] = np.arange(77)[None]
        return {f"text_model.{key}": value for key, value in plain.items()} if prefixed else plain

    check_bound(changed("text_encoder", rename))


def test_tied_weights_are_bound_once(tmp_path):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    component = ComponentSource("text_encoder", "transformers", "T5EncoderModel", Path(tmp_path))
    module = made(component)
    found = bind(module, component)
    assert len([key for key in component.stored if "block" not in key and "norm" not in key]) == 1
    assert found["shared.weight"] is found["encoder.embed_tokens.weight"]
    assert module.shared.weight is module.encoder.embed_tokens.weight
    check_bound(component)


@pytest.mark.slow
def test_a_size_that_nobody_tells_is_that_of_the_denoiser_and_not_of_the_pictures_it_is_given(tmp_path):
    from tests.sweep.models import CASES

    CASES["sd15-controlnet"].build().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    config["sample_size"] = 24
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    method = capture(open_model(str(tmp_path))).methods[1]
    (control,) = (s for s in method.inputs if s.name == "controlnet_cond")
    (sample,) = (s for s in method.inputs if s.name == "sample")
    assert sample.shape[-2:] == (24, 24) and control.shape[-1] == 24 * 2
