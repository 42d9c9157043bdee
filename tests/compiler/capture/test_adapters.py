"""Adapters merged in the weight stream are what diffusers and lycoris-lora make of them in memory, weight by weight."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import Adapter, ModelSpec
from compiler.capture.adapters import merged
from compiler.capture.weightless_modules import bind, build
from compiler.source import open_model
from targets.graph.weights import Origin, Stored

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# With out_proj, by which diffusers knows the names of attention.
TEXT = ("q_proj", "v_proj", "out_proj", "fc1")


@pytest.fixture(scope="module")
def bound(sd15):
    """Where each weight of the tiny model is stored, without adapters."""
    source = open_model(str(sd15))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    return {c.name: bind(build(c, mode), c) for c in source.modules}


@pytest.fixture(scope="module")
def pipeline(sd15):
    """The tiny model in PyTorch; tests copy its modules."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(sd15)


def merge(sd15: Path, bound: Any, *adapters: Adapter, partial: bool = False) -> dict[str, dict[str, Origin]]:
    return merged(open_model(ModelSpec(model=str(sd15), adapters=adapters, partial=partial)), bound).weights


def peft_state(
    pipeline: Any, targets: Mapping[str, tuple[str, ...]], **config: Any
) -> dict[str, torch.Tensor]:
    """A LoRA as peft names it, of rank 2, all of it random."""
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

    torch.manual_seed(3)
    state = {}
    for component, layers in targets.items():
        module = copy.deepcopy(getattr(pipeline, component))
        settings = LoraConfig(
            r=2, lora_alpha=2, target_modules=list(layers), init_lora_weights=False, **config
        )
        inject_adapter_in_model(settings, module)
        for key, tensor in get_peft_model_state_dict(module).items():
            state[f"{component}.{key}"] = (tensor * 1.1).contiguous()
    return state


def kohya_state(state: Mapping[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """The same LoRA as kohya's trainer names it, in half precision and with an alpha."""
    result = {}
    for key, tensor in state.items():
        component, _, name = key.partition(".")
        stem, letter = name.rsplit(".lora_", 1)
        text = component.startswith("text")
        stem = f"text_model.{stem}" if text and not stem.startswith("text_model") else stem
        prefix = f"lora_{'te' if text else 'unet'}_{stem.replace('.', '_')}"
        result[f"{prefix}.lora_{'down' if letter[0] == 'A' else 'up'}.weight"] = tensor.half()
        result[f"{prefix}.alpha"] = torch.tensor(alpha)
    return result


def saved(file: Path, state: dict[str, torch.Tensor]) -> str:
    save_file(state, file)
    return str(file)


def fused(pipeline: Any, *adapters: Adapter) -> dict[str, dict[str, torch.Tensor]]:
    """What diffusers' own `load_lora_weights` and `fuse_lora` make of the files."""
    modules = {name: copy.deepcopy(getattr(pipeline, name)) for name in ("unet", "text_encoder", "vae")}
    pipe = type(pipeline)(**{**pipeline.components, **modules})
    for number, adapter in enumerate(adapters):
        pipe.load_lora_weights(adapter.file, adapter_name=f"a{number}")
    names = [f"a{number}" for number in range(len(adapters))]
    pipe.set_adapters(names, [dict(a.components) or a.weight for a in adapters])
    pipe.fuse_lora(adapter_names=names)
    return {
        name: {key.replace(".base_layer.", "."): t for key, t in module.state_dict().items()}
        for name, module in modules.items()
    }


def difference(got: Mapping[str, Origin], wanted: Mapping[str, torch.Tensor]) -> float:
    """The largest relative error of any weight."""
    errors = []
    for name, origin in got.items():
        ours, theirs = origin.read().astype(np.float32), wanted[name].float().numpy()
        errors.append(float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-9)))
    return max(errors)


def changed(got: Mapping[str, Any], bound: Mapping[str, Any]) -> int:
    return sum(origin != bound[c][name] for c, names in got.items() for name, origin in names.items())


@pytest.fixture(scope="module")
def lora(pipeline, tmp_path_factory):
    """A LoRA of both networks with 3x3 convolutions, as peft and as kohya name it."""
    folder = tmp_path_factory.mktemp("lora")
    targets = {"unet": (*ATTENTION, "conv1", "proj_in"), "text_encoder": TEXT}
    state = peft_state(pipeline, targets)
    return saved(folder / "peft.safetensors", state), saved(
        folder / "kohya.safetensors", kohya_state(state, 1.0)
    )


def test_loras_are_what_diffusers_fuses(sd15, bound, pipeline, lora):
    peft, kohya = lora
    adapters = (
        Adapter(file=peft, weight=0.8),
        Adapter(file=kohya, components={"unet": -0.5, "text_encoder": 0}),
    )
    got, wanted = merge(sd15, bound, *adapters), fused(pipeline, *adapters)
    assert changed(got, bound) > 50
    for name in ("unet", "text_encoder"):
        assert difference(got[name], wanted[name]) < 1e-6
    assert got["vae"] == bound["vae"]
    kernels = [o for n, o in got["unet"].items() if n.endswith("conv1.weight")]
    assert kernels and not any(isinstance(origin, Stored) for origin in kernels)


def test_a_weight_of_zero_changes_no_bit(sd15, bound, lora):
    got = merge(sd15, bound, Adapter(file=lora[1], weight=0.0))
    for name, origin in got["unet"].items():
        assert np.array_equal(origin.read(), bound["unet"][name].read().astype(origin.read().dtype))


def test_a_decomposed_lora_is_what_diffusers_fuses(sd15, bound, pipeline, tmp_path):
    state = peft_state(pipeline, {"unet": ATTENTION}, use_dora=True)
    adapter = Adapter(file=saved(tmp_path / "dora.safetensors", state), weight=0.7)
    got = merge(sd15, bound, adapter)
    assert changed(got, bound) == sum(key.endswith("lora_magnitude_vector") for key in state)
    assert difference(got["unet"], fused(pipeline, adapter)["unet"]) < 1e-6


def kohya_dora(state: Mapping[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """A decomposed LoRA of a UNet as trainers of kohya's kind name it: a norm for each row."""
    magnitudes = {key: tensor for key, tensor in state.items() if key.endswith("magnitude_vector")}
    result = kohya_state({key: tensor for key, tensor in state.items() if key not in magnitudes}, alpha)
    for key, tensor in magnitudes.items():
        path = key.removeprefix("unet.").removesuffix(".lora_magnitude_vector")
        name = f"lora_unet_{path.replace('.', '_')}"
        dims = result[f"{name}.lora_down.weight"].dim() - 1
        result[f"{name}.dora_scale"] = tensor.reshape(-1, *[1] * dims).clone()
    return result


@pytest.mark.parametrize("more", ["alone", "beside a LoRA", "beside a LoRA of the text encoder"])
def test_a_decomposed_lora_in_kohyas_names_is_the_same(sd15, bound, pipeline, tmp_path, more):
    state = peft_state(pipeline, {"unet": (*ATTENTION, "conv1")}, use_dora=True)
    state = {key: t if "magnitude" in key else t.half().float() for key, t in state.items()}
    wanted = {f"unet.{k}": t for k, t in fused_dora(pipeline, sd15, bound, tmp_path, state).items()}
    other = {
        "alone": {},
        "beside a LoRA": peft_state(pipeline, {"unet": ("proj_in",)}),
        "beside a LoRA of the text encoder": peft_state(pipeline, {"text_encoder": TEXT}),
    }[more]
    file = saved(tmp_path / "kohya.safetensors", kohya_dora(state, 2.0) | kohya_state(other, 2.0))
    got = merge(sd15, bound, Adapter(file=file, weight=0.7))
    assert changed(got, bound) == len(wanted) + len(other) // 2
    for name, values in wanted.items():
        found = got["unet"][name.removeprefix("unet.")].read()
        assert np.linalg.norm(found - values) < 1e-6 * np.linalg.norm(values), name


def fused_dora(pipeline: Any, sd15: Path, bound: Any, folder: Path, state: Any) -> dict[str, np.ndarray]:
    """The weights that a decomposed LoRA at 0.7 changes, as diffusers fuses it."""
    adapter = Adapter(file=saved(folder / "dora.safetensors", dict(state)), weight=0.7)
    weights = fused(pipeline, adapter)["unet"]
    layers = {
        key.removeprefix("unet.").removesuffix(".lora_magnitude_vector")
        for key in state
        if key.endswith("magnitude_vector")
    }
    return {f"{layer}.weight": weights[f"{layer}.weight"].numpy() for layer in layers}


@pytest.mark.parametrize("what", ["columns", "a text encoder"])
def test_magnitudes_are_not_dropped(sd15, bound, pipeline, tmp_path, what):
    """Those of columns are not read, and of a text encoder's layer alone: it is left out whole, or the file refused."""
    state = kohya_dora(peft_state(pipeline, {"unet": ATTENTION}, use_dora=True), 2.0)
    if what == "columns":
        key = next(key for key in state if key.endswith("attn1_to_q.dora_scale"))
        state[key] = state[key].transpose(0, 1).contiguous()
    else:
        own = kohya_state(peft_state(pipeline, {"text_encoder": ("q_proj",)}), 2.0)
        key = next(iter(own)).partition(".")[0] + ".dora_scale"
        state |= own | {key: torch.ones(32, 1)}
    file = saved(tmp_path / "bad.safetensors", state)
    with pytest.raises(LatentcError, match=r"bad\.safetensors") as caught:
        whole(sd15, bound, file)
    assert key.partition(".")[0] in str(caught.value)
    got, told = whole(sd15, bound, file, partial=True)
    layer = key.partition(".")[0] + "."
    less = {k: t for k, t in state.items() if not k.startswith(layer if what == "columns" else "lora_te_")}
    wanted, _ = whole(sd15, bound, saved(tmp_path / "less.safetensors", less))
    assert told and got.adapters[0].left_out >= 3
    assert same({"unet": got.weights["unet"]}, {"unet": wanted.weights["unet"]})
    if what != "columns":
        stem = key.removeprefix("lora_te_text_model_").removesuffix(".dora_scale")
        names = [
            n for n in bound["text_encoder"] if n.removesuffix(".weight").replace(".", "_").endswith(stem)
        ]
        assert names and all(got.weights["text_encoder"][n] == bound["text_encoder"][n] for n in names)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("loha", {}),
        ("loha", {"dora_wd": True}),
        ("lokr", {"factor": 4}),
        ("full", {}),
        ("lora", {"use_tucker": True}),
    ],
)
def test_kinds_that_diffusers_lacks_are_what_lycoris_merges(
    sd15, bound, pipeline, tmp_path, algorithm, options
):
    from lycoris import LycorisNetwork, create_lycoris, create_lycoris_from_weights

    unet = copy.deepcopy(pipeline.unet)
    options = {"conv_dim": 2, "conv_alpha": 1.0, "preset": "full", **options}
    LycorisNetwork.apply_preset({"target_module": ["Transformer2DModel", "ResnetBlock2D"], "target_name": []})
    network = create_lycoris(unet, 1.0, linear_dim=2, linear_alpha=1.0, algo=algorithm, **options)
    noise = torch.Generator().manual_seed(1)
    state = {}
    for layer in network.loras:
        parts = layer.state_dict()
        if algorithm == "full":
            parts = {"diff": layer.weight} | ({} if layer.bias is None else {"diff_b": layer.bias})
        for part, tensor in parts.items():
            random = torch.randn(tensor.shape, generator=noise) * 0.2
            keep = tensor.dim() == 0 or part == "dora_scale"
            state[f"{layer.lora_name}.{part}"] = (tensor if keep else random).detach().clone().contiguous()
    file = saved(
        tmp_path / "kind.safetensors", {k.replace("lycoris_", "lora_unet_", 1): v for k, v in state.items()}
    )
    got = merge(sd15, bound, Adapter(file=file, weight=0.8))
    expected = copy.deepcopy(pipeline.unet)
    create_lycoris_from_weights(0.8, None, expected, state)[0].merge_to(0.8)
    assert changed(got, bound) >= len(network.loras) > 50
    assert difference(got["unet"], expected.state_dict()) < 1e-6


# --- what is refused -----------------------------------------------------------------------------


def test_a_tensor_that_finds_no_weight_is_named(sd15, bound, pipeline, tmp_path):
    state = peft_state(pipeline, {"unet": ATTENTION})
    state |= {f"unet.nowhere.to_q.lora_{ab}.weight": torch.ones(2, 2) for ab in "AB"}
    adapter = Adapter(file=saved(tmp_path / "more.safetensors", state))
    with pytest.raises(
        LatentcError, match=r"2 of the .* find no weight in this model: unet\.nowhere"
    ) as caught:
        merge(sd15, bound, adapter)
    assert "--lora-partial" in caught.value.hint
    assert changed(merge(sd15, bound, adapter, partial=True), bound) > 10


def whole(sd15: Path, bound: Any, file: str, partial: bool = False) -> tuple[Any, list[str]]:
    """What is made of one file at 0.8, and what is told of it in lines of their own."""
    from latentc.progress_bars import Lines

    told: list[str] = []
    spec = ModelSpec(model=str(sd15), adapters=(Adapter(file=file, weight=0.8),), partial=partial)
    return merged(open_model(spec), bound, Lines(told.append)), told


def same(got: Mapping[str, Mapping[str, Origin]], wanted: Mapping[str, Mapping[str, Origin]]) -> bool:
    return all(
        np.array_equal(origin.read(), wanted[component][name].read())
        for component, names in got.items()
        for name, origin in names.items()
    )


FOREIGN = {
    "a pair of no layout": {"extra.lora_up.weight": (4, 4), "extra.lora_down.weight": (4, 4)},
    "a layer that is not there": {
        f"lora_unet_nowhere_to_q.lora_{part}.weight": (2, 2) for part in ("up", "down")
    },
    "no LoRA": {"extra.weight": (3, 3)},
}


@pytest.mark.parametrize("names", ["peft", "kohya", "loha"])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_foreign_tensors_are_named_or_left_out_and_the_others_merged_as_without_them(
    sd15, bound, pipeline, tmp_path, names, foreign
):
    state = peft_state(pipeline, {"unet": ATTENTION})
    if names != "peft":
        state = kohya_state(state, 1.0)
    if names == "loha":
        parts = {"lora_up.weight": ("hada_w1_a", "hada_w2_a"), "lora_down.weight": ("hada_w1_b", "hada_w2_b")}
        state = {
            f"{stem}.{part}": tensor.clone()
            for key, tensor in state.items()
            for stem, _, own in [key.partition(".")]
            for part in parts.get(own, (own,))
        }
    own = saved(tmp_path / "own.safetensors", state)
    more = {key: torch.ones(shape) for key, shape in FOREIGN[foreign].items()}
    both = saved(tmp_path / "both.safetensors", state | more)
    wanted, told = whole(sd15, bound, own)
    assert not told and wanted.adapters[0].left_out == 0
    assert changed(wanted.weights, bound) > 10
    with pytest.raises(LatentcError, match=r"both\.safetensors") as caught:
        whole(sd15, bound, both)
    assert all(key in str(caught.value) for key in more) and "--lora-partial" in caught.value.hint
    got, told = whole(sd15, bound, both, partial=True)
    assert same(got.weights, wanted.weights)
    assert got.adapters[0].left_out == len(more)
    assert "left out" in got.adapters[0].text and "left out" not in wanted.adapters[0].text
    assert (
        len(told) == 1 and f"both.safetensors: {len(more)} tensors" in told[0] and next(iter(more)) in told[0]
    )


def test_layouts_that_are_mixed_in_one_file(sd15, bound, pipeline, tmp_path):
    state = peft_state(pipeline, {"unet": ATTENTION})
    pairs = sorted(state)
    half = 2 * (len(pairs) // 4)
    mixed = {key: state[key].half() for key in pairs[:half]}
    mixed |= kohya_state({key: state[key] for key in pairs[half:]}, 2.0)
    wanted, _ = whole(
        sd15, bound, saved(tmp_path / "one.safetensors", {k: t.half() for k, t in state.items()})
    )
    got, _ = whole(sd15, bound, saved(tmp_path / "mixed.safetensors", mixed))
    assert same(got.weights, wanted.weights) and changed(got.weights, bound) == len(pairs) // 2


def test_matrices_that_do_not_fit_are_left_out_in_part(sd15, bound, pipeline, tmp_path):
    state = peft_state(pipeline, {"unet": ATTENTION})
    first, second, third, *_ = sorted({key.partition(".lora_")[0] for key in state})
    own = {key: tensor for key, tensor in state.items() if not key.startswith((first, second, third))}
    state[f"{first}.lora_A.weight"] = torch.ones(2, 3)  # of another width
    state[f"{second}.lora_B.weight"] = state[f"{second}.lora_B.weight"][:, :1].contiguous()  # of another rank
    del state[f"{third}.lora_B.weight"]
    wanted, _ = whole(sd15, bound, saved(tmp_path / "own.safetensors", own))
    file = saved(tmp_path / "wide.safetensors", state)
    got, _ = whole(sd15, bound, file, partial=True)
    assert same(got.weights, wanted.weights) and got.adapters[0].left_out == 5
    with pytest.raises(LatentcError, match=r"wide\.safetensors") as caught:
        whole(sd15, bound, file)
    assert f"{first}.lora_A.weight" in str(caught.value) and "--lora-partial" in caught.value.hint


@pytest.mark.parametrize(
    "names",
    [
        ["transformer.blocks.0.attn.to_q.lora_A.weight", "transformer.blocks.0.attn.to_q.lora_B.weight"],
        ["lora_unet_nowhere.lora_down.weight", "lora_unet_nowhere.lora_up.weight"],
        ["unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight"],
        ["lora_unet_nowhere.hada_w1_a", "lora_unet_nowhere.hada_w1_b"],
        ["junk.weight"],
    ],
)
def test_a_file_of_which_nothing_fits_is_refused_in_part_too(sd15, bound, tmp_path, names):
    file = saved(tmp_path / "other.safetensors", {name: torch.ones(2, 2) for name in names})
    with pytest.raises(LatentcError, match=r"other\.safetensors") as caught:
        whole(sd15, bound, file, partial=True)
    assert "It is of another model" in caught.value.hint


def test_a_file_of_settings_alone(sd15, bound, tmp_path):
    file = saved(tmp_path / "other.safetensors", {"lora_unet_conv_in.alpha": torch.tensor(1.0)})
    with pytest.raises(LatentcError, match=r"other\.safetensors"):
        whole(sd15, bound, file, partial=True)


def test_a_lora_of_another_model(sd15, bound, tmp_path):
    names = [f"transformer.blocks.{i}.attn.to_q.lora_{ab}.weight" for i in range(2) for ab in "AB"]
    other = saved(tmp_path / "other.safetensors", {name: torch.ones(2, 2) for name in names})
    with pytest.raises(LatentcError, match=r"other.safetensors|find") as caught:
        merge(sd15, bound, Adapter(file=other))
    assert "another model" in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_lora_of_a_wider_model(sd15, bound, pipeline, tmp_path):
    state = peft_state(pipeline, {"unet": ("to_q",)})
    wide = {k: torch.ones(*(s * 2 if s != 2 else s for s in t.shape)) for k, t in state.items()}
    with pytest.raises(LatentcError, match="cannot be merged into this model: size mismatch"):
        merge(sd15, bound, Adapter(file=saved(tmp_path / "wide.safetensors", wide)))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((2, 32), float("nan")), "is not finite"),
        (torch.zeros(0, 32), "rank 0"),
    ],
)
def test_damaged_tensors(sd15, bound, tmp_path, tensor, message):
    file = saved(tmp_path / "bad.safetensors", {"unet.conv_in.lora_A.weight": tensor})
    with pytest.raises(LatentcError, match=message):
        merge(sd15, bound, Adapter(file=file))


def test_a_pickle_with_the_name_of_a_safetensors_file(sd15, bound, tmp_path):
    file = tmp_path / "style.safetensors"
    torch.save({"a": torch.ones(2)}, file)
    with pytest.raises(LatentcError, match="is a pickle"):
        merge(sd15, bound, Adapter(file=str(file)))


def test_a_weight_for_a_component_that_is_not_there(sd15, bound, lora):
    with pytest.raises(UsageError, match="no component 'transformer'"):
        merge(sd15, bound, Adapter(file=lora[0], components={"transformer": 1.0}))
