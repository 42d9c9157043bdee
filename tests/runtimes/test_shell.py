from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from artifacts.call_trees import ConstLeaf
from artifacts.contents import Folder
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import ComponentRecord, MethodRecord
from runtimes.meter import Meter
from runtimes.shell import build_shell
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled

CLASSES = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


def component(compiled: Compiled, name: str) -> ComponentRecord:
    return next(c for c in compiled.manifest.components if c.name == name)


def shell(compiled: Compiled, name: str, **changes: Any) -> Any:
    record = component(compiled, name).model_copy(update=changes)
    meter = Meter()
    return build_shell(record, compiled.root, compiled.pool(), lambda: meter)


@pytest.mark.parametrize("name", CLASSES)
def test_is_its_own_class_without_memory(compiled: Compiled, name: str) -> None:
    made = shell(compiled, name)
    assert isinstance(made, CLASSES[name])
    assert type(made).__name__ == CLASSES[name].__name__
    assert type(made).__module__ == CLASSES[name].__module__
    assert all(p.is_meta and not p.requires_grad for p in made.parameters())
    assert made.device == torch.device("cpu")
    assert made.dtype == torch.float32
    assert not made.training
    reference = getattr(compiled.reference, name)
    if name == "text_encoder":
        assert made.config.hidden_size == reference.config.hidden_size
    else:
        assert dict(made.config).items() >= {"act_fn": reference.config.act_fn}.items()
    assert [n for n, _ in made.named_parameters()] == [n for n, _ in reference.named_parameters()]


def test_moving_and_casting_do_nothing(compiled: Compiled) -> None:
    made = shell(compiled, "unet")
    for moved in (
        made.to("cpu"),
        made.to(torch.float16),
        made.half(),
        made.float(),
        made.cuda(),
        made.bfloat16(),
    ):
        assert moved is made
    assert made.device == torch.device("cpu")
    assert made.dtype == torch.float32


def test_answers_as_the_module(compiled: Compiled) -> None:
    unet, vae, text = (shell(compiled, n) for n in ("unet", "vae", "text_encoder"))
    torch.manual_seed(0)
    ids = torch.randint(0, 60, (2, tiny.TEXT_LENGTH))
    latent = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        hidden = text(ids)
        expected = compiled.reference.text_encoder(ids)
        assert type(hidden) is type(expected)
        assert torch.equal(hidden.last_hidden_state, expected.last_hidden_state)
        assert torch.equal(hidden[1], expected[1])
        for step in (torch.tensor(7), torch.tensor(7.0), 7):
            found = unet(latent, step, encoder_hidden_states=hidden[0], return_dict=False)
            wanted = compiled.reference.unet(latent, torch.tensor(7.0), hidden[0], return_dict=False)
            assert torch.equal(found[0], wanted[0])
        assert torch.equal(vae.decode(latent).sample, compiled.reference.vae.decode(latent).sample)
        assert torch.equal(vae.decode(latent, return_dict=False)[0], vae.decode(latent).sample)
        image = torch.randn(1, 3, 32, 32)
        encoded, wanted = vae.encode(image).latent_dist, compiled.reference.vae.encode(image).latent_dist
        assert type(encoded) is type(wanted)
        assert torch.equal(encoded.mode(), wanted.mode())
        seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
        assert torch.equal(encoded.sample(seeds[0]), wanted.sample(seeds[1]))


def call(made: Any, batch: int = 2, side: int = 16, **changes: Any) -> Any:
    known = {"sample": torch.zeros(batch, 4, side, side), "timestep": 1, "return_dict": False}
    known["encoder_hidden_states"] = torch.zeros(batch, tiny.TEXT_LENGTH, 8)
    return made(**(known | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"return_dict": True}, "return_dict: expected False, found True"),
        ({"class_labels": torch.zeros(2)}, r"class_labels: expected None, found a tensor float32\[2\]"),
        (
            {"side": 64},
            r"sample: expected shape \[batch 1\.\.8, 4, height 8\.\.32, .*found shape \[2, 4, 64, 64\]",
        ),
        ({"batch": 9}, r"sample: expected shape \[batch 1\.\.8, .*found shape \[9, 4, 16, 16\] \(axis 0\)"),
        ({"encoder_hidden_states": torch.zeros(1, 16, 8)}, "with batch = 2 as in the other inputs"),
        (
            {"encoder_hidden_states": torch.zeros(2, 16)},
            r"encoder_hidden_states: expected shape \[batch, 16, 8\]",
        ),
        ({"encoder_hidden_states": None}, "encoder_hidden_states: expected a tensor, found None"),
    ],
)
def test_calls_that_do_not_fit(compiled: Compiled, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(
        LatentcError, match=rf"unet\.forward is not compiled for this call\. .*{message}"
    ) as raised:
        call(shell(compiled, "unet"), **changes)
    assert "latentc inspect" in raised.value.hint


def test_a_call_that_the_method_itself_would_refuse(compiled: Compiled) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'smaple'"):
        call(shell(compiled, "unet"), smaple=1)


def test_the_first_record_that_fits_answers(compiled: Compiled) -> None:
    record = component(compiled, "unet").methods[0]
    other = MethodRecord(
        method="forward",
        arguments=record.arguments | {"return_dict": ConstLeaf(value=True)},
        result=ConstLeaf(value="the other"),
        graph="unet",
    )
    made = shell(
        compiled, "unet", methods=(record, other, other.model_copy(update={"result": ConstLeaf(value=3)}))
    )
    assert isinstance(call(made), tuple)
    assert call(made, return_dict=True) == "the other"


def test_what_is_not_compiled_says_so(compiled: Compiled) -> None:
    made = shell(compiled, "vae", methods=component(compiled, "vae").methods[:2])
    with pytest.raises(
        LatentcError, match=r"a part of 'vae' \(Conv2d\) that is not compiled \(compiled: decode\)"
    ):
        made.encode(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("method", ["load_lora_adapter", "load_state_dict", "save_pretrained", "add_adapter"])
def test_weights_cannot_be_changed_or_saved(compiled: Compiled, method: str) -> None:
    with pytest.raises(UsageError, match="'unet' is compiled: its weights cannot be changed or saved"):
        getattr(shell(compiled, "unet"), method)({})


def test_hooks_and_offload_still_work(compiled: Compiled) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    made = shell(compiled, "unet")
    seen: list[str] = []

    class Hook(ModelHook):
        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append("accelerate")
            module.to("cpu")
            return args, kwargs

    made.register_forward_hook(lambda module, args, output: seen.append("torch"))
    add_hook_to_module(made, Hook())
    call(made)
    assert seen == ["accelerate", "torch"]
    remove_hook_from_module(made)
    call(made)
    assert seen == ["accelerate", "torch", "torch"]


def test_residual_tensors_are_real(compiled: Compiled, tmp_path: Path) -> None:
    reference = compiled.reference.unet.time_embedding.linear_1
    save_file(
        {"time_embedding.linear_1.weight": reference.weight.data.clone()},
        compiled.root / "residual.safetensors",
    )
    try:
        made = shell(compiled, "unet", residual="residual.safetensors")
    finally:
        (compiled.root / "residual.safetensors").unlink()
    assert torch.equal(made.time_embedding.linear_1.weight, reference.weight)
    assert isinstance(made.time_embedding.linear_1.weight, torch.nn.Parameter)
    assert made.time_embedding.linear_2.weight.is_meta


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"time_embedding.nothing": torch.zeros(1)}, "has no tensor 'time_embedding.nothing'"),
        ({"config": torch.zeros(1)}, "'config' is"),
        ({"conv_in.bias": torch.zeros(3)}, r"'conv_in\.bias' is \[3\]; the module has torch\.Size\(\[8\]\)"),
    ],
)
def test_wrong_residuals(compiled: Compiled, tensors: Mapping[str, Any], message: str) -> None:
    file = compiled.root / "wrong.safetensors"
    save_file(dict(tensors), file)
    try:
        with pytest.raises(LatentcError, match=message):
            shell(compiled, "unet", residual=file.name)
    finally:
        file.unlink()


def test_classes_that_are_not_modules_or_not_trusted(compiled: Compiled) -> None:
    with pytest.raises(LatentcError, match=r"'diffusers:DDIMScheduler' as a module, which it is not"):
        shell(compiled, "unet", class_path="diffusers:DDIMScheduler")
    with pytest.raises(LatentcError, match="only classes of diffusers and transformers are imported"):
        shell(compiled, "unet", class_path="torch.nn:Linear")


def test_a_method_of_a_submodule(compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.embeddings import TimestepEmbedding

    def forward(self: Any, sample: Any, condition: Any = None) -> Any:
        return [self.linear_1(item) for item in sample]

    monkeypatch.setattr(TimestepEmbedding, "forward", forward)

    class Pool(tiny.TorchGraphs):
        def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"out": inputs["sample"] * 2}

    record = MethodRecord(
        method="time_embedding.forward",
        arguments={"sample": tiny.tensor("sample"), "condition": tiny.NONE},
        result=tiny.tensor("out"),
        graph="time",
    )
    made_of = component(compiled, "unet").model_copy(update={"methods": (record,)})
    pool = Pool(compiled.reference, compiled.manifest)
    pool.records["time"] = tiny.graph("time", [("sample", "float32", ("b", 8))], {})
    meter = Meter()
    made: Any = build_shell(made_of, compiled.root, pool, lambda: meter)
    assert made.time_embedding(torch.ones(1, 8)).tolist() == [[2.0] * 8]
    assert meter.timings().components["unet.time_embedding.forward"].calls == 1
    assert made.time_embedding([]) == []  # its own code: no tensor, no graph
    with pytest.raises(LatentcError, match="sample: expected a tensor, found a list of 1"):
        made.time_embedding([torch.ones(1, 8)])


def test_a_constructor_that_reads_its_own_tensors(tmp_path: Path) -> None:
    """A meta tensor has no `.item()`: the fallback keeps such tensors real, and parameters on meta."""
    from runtimes import shell as module

    class Picky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rates = [x.item() for x in torch.linspace(0, 1, 3)]
            self.linear = torch.nn.Linear(2, len(rates))

        @classmethod
        def from_config(cls, config: Any) -> Any:
            return cls()

    (tmp_path / "config.json").write_text("{}")
    made = module._on_meta(Picky, Folder(tmp_path), "config.json")
    assert made.linear.weight.is_meta
    assert made.linear.weight.shape == (3, 2)
