"""A tiny Stable Diffusion with random weights, as an artifact whose graphs are the torch modules."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from artifacts.call_trees import AnyLeaf, ConstLeaf, MappingNode, ObjectNode, SequenceNode, TensorLeaf, Tree
from artifacts.evidence_records import Evidence
from artifacts.hashing import file_record
from artifacts.manifest import (
    ComponentRecord,
    DimRange,
    GraphRecord,
    Manifest,
    MethodRecord,
    Source,
    TensorSpec,
)

SIZE = 32
TEXT_LENGTH = 16
NONE = ConstLeaf(value=None)


def tensor(name: str, number: bool = False) -> TensorLeaf:
    return TensorLeaf(name=name, number=number)


def tokenizer(folder: Path) -> CLIPTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=TEXT_LENGTH,
        pad_token="<|endoftext|>",
    )


def stable_diffusion(folder: Path) -> StableDiffusionPipeline:
    """The pipeline in PyTorch, seeded."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIZE // 2,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=64,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    pipe = StableDiffusionPipeline(
        unet=unet.eval(),
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer(folder / "tokenizer_files"),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def graph(
    folder: str, inputs: list[tuple[str, str, tuple[int | str, ...]]], dims: dict[str, DimRange]
) -> GraphRecord:
    return GraphRecord(
        folder=folder,
        model_file=f"{folder}/model.fake",
        inputs=tuple(TensorSpec(name=n, dtype=d, shape=s) for n, d, s in inputs),
        outputs=(),
        dims=dims,
        precision="fp32",
        parameters=1,
        schemes={},
        digest="",
        evidence=(Evidence(check="not measured", reason="a test"),),
    )


def unet_arguments(extra: dict[str, Tree] | None = None) -> dict[str, Tree]:
    absent = (
        "class_labels timestep_cond attention_mask cross_attention_kwargs added_cond_kwargs "
        "encoder_attention_mask down_block_additional_residuals mid_block_additional_residual "
        "down_intrablock_additional_residuals"
    )
    return {
        **dict.fromkeys(absent.split(), NONE),
        "sample": tensor("sample"),
        "timestep": tensor("timestep"),
        "encoder_hidden_states": tensor("encoder_hidden_states"),
        "return_dict": ConstLeaf(value=False),
        **(extra or {}),
    }


def manifest(batch: int = 4) -> Manifest:
    """What a compile of `stable_diffusion` would write, with `batch` images (twice that in the UNet)."""
    images = DimRange(min=1, max=batch)
    side = DimRange(min=8, max=32)
    twice = DimRange(min=1, max=2 * batch)
    latent = {"b": images, "h": side, "w": side}
    out = "diffusers.models.autoencoders.vae:DecoderOutput"
    return Manifest(
        source=Source(id="tiny", weights=()),
        pipelines={
            "text-to-image": "diffusers:StableDiffusionPipeline",
            "image-to-image": "diffusers:StableDiffusionImg2ImgPipeline",
        },
        target="openvino",
        device="cpu",
        options={},
        precision="fp32",
        sizes={"batch": images, "width": DimRange(min=16, max=64), "height": DimRange(min=16, max=64)},
        graphs=(
            graph("text_encoder", [("input_ids", "int64", ("batch", TEXT_LENGTH))], {"batch": images}),
            graph(
                "unet",
                [
                    ("sample", "float32", ("batch", 4, "height", "width")),
                    ("timestep", "float32", ()),
                    ("encoder_hidden_states", "float32", ("batch", TEXT_LENGTH, 8)),
                ],
                {"batch": twice, "height": side, "width": side},
            ),
            graph("vae_decoder", [("latent_sample", "float32", ("b", 4, "h", "w"))], latent),
            graph("vae_encoder", [("sample", "float32", ("b", 3, "h", "w"))], {"b": images}),
        ),
        components=(
            ComponentRecord(
                name="text_encoder",
                class_path="transformers.models.clip.modeling_clip:CLIPTextModel",
                config="text_encoder/config.json",
                methods=(
                    MethodRecord(
                        method="forward",
                        arguments={
                            "input_ids": tensor("input_ids"),
                            "attention_mask": NONE,
                            "position_ids": NONE,
                            "kwargs": MappingNode(kind="dict", items={"output_hidden_states": AnyLeaf()}),
                        },
                        result=ObjectNode(
                            kind="object",
                            class_path="transformers.modeling_outputs:BaseModelOutputWithPooling",
                            items={
                                "last_hidden_state": tensor("last_hidden_state"),
                                "pooler_output": tensor("pooler_output"),
                            },
                        ),
                        graph="text_encoder",
                    ),
                ),
            ),
            ComponentRecord(
                name="unet",
                class_path="diffusers:UNet2DConditionModel",
                config="unet/config.json",
                methods=(
                    MethodRecord(
                        method="forward",
                        arguments=unet_arguments(),
                        result=in_tuple(tensor("out_sample")),
                        graph="unet",
                    ),
                ),
            ),
            ComponentRecord(
                name="vae",
                class_path="diffusers:AutoencoderKL",
                config="vae_decoder/config.json",
                methods=(
                    MethodRecord(
                        method="decode",
                        arguments={
                            "z": tensor("latent_sample"),
                            "return_dict": ConstLeaf(value=False),
                            "generator": AnyLeaf(),
                        },
                        result=in_tuple(tensor("sample")),
                        graph="vae_decoder",
                    ),
                    MethodRecord(
                        method="decode",
                        arguments={
                            "z": tensor("latent_sample"),
                            "return_dict": ConstLeaf(value=True),
                            "generator": AnyLeaf(),
                        },
                        result=ObjectNode(kind="object", class_path=out, items={"sample": tensor("sample")}),
                        graph="vae_decoder",
                    ),
                    MethodRecord(
                        method="encode",
                        arguments={"x": tensor("sample"), "return_dict": ConstLeaf(value=True)},
                        result=ObjectNode(
                            kind="object",
                            class_path="diffusers.models.modeling_outputs:AutoencoderKLOutput",
                            items={
                                "latent_dist": ObjectNode(
                                    kind="object",
                                    class_path="diffusers.models.autoencoders.vae:DiagonalGaussianDistribution",
                                    items={"parameters": tensor("latent_parameters")},
                                )
                            },
                        ),
                        graph="vae_encoder",
                    ),
                ),
            ),
        ),
        files=(),
        toolchain={},
        created="",
    )


def in_tuple(*items: Tree) -> Tree:
    return SequenceNode(kind="tuple", items=items)


def write_artifact(pipe: Any, root: Path) -> Path:
    """The files of an artifact but its graphs and manifest, as diffusers' `save_pretrained` lays them out."""
    pipe.save_pretrained(root)
    for file in root.rglob("*.safetensors"):
        file.unlink()
    (root / "vae").rename(root / "vae_decoder")
    return root


def publish(root: Path, place: Path) -> Path:
    """A copy of `write_artifact` at `place` that `load` accepts; its graphs are no graphs."""
    shutil.copytree(root, place)
    made = manifest()
    for made_graph in made.graphs:
        (place / made_graph.folder).mkdir(exist_ok=True)
        (place / made_graph.model_file).write_text(f"the graph of {made_graph.folder}")
    files = tuple(file_record(place, path) for path in sorted(place.rglob("*")) if path.is_file())
    text = made.model_copy(update={"files": files}).model_dump_json()
    (place / "latentc.json").write_text(text, encoding="utf-8")
    return place


class TorchGraphs:
    """Stands for `runtimes.graphs.Graphs`: each graph is a torch module. Remembers its calls."""

    def __init__(self, pipe: Any, manifest: Manifest) -> None:
        self.pipe = pipe
        self.records = {g.folder: g for g in manifest.graphs}
        self.computes = dict.fromkeys(self.records, "fp32")
        self.adapters: tuple[Any, ...] = ()
        self.calls: list[tuple[str, dict[str, tuple[str, tuple[int, ...]]]]] = []
        self.opened: list[str] = []
        self.closed = False

    def record(self, graph: str) -> GraphRecord:
        return self.records[graph]

    def open(self, graph: str) -> None:
        if graph not in self.opened:
            self.opened.append(graph)

    def open_all(self) -> None:
        for graph in self.records:
            self.open(graph)

    def close(self) -> None:
        self.closed = True

    @torch.no_grad()
    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert graph in self.opened
        self.calls.append((graph, {k: (v.dtype.name, v.shape) for k, v in inputs.items()}))
        t = {k: torch.from_numpy(v) for k, v in inputs.items()}
        p = self.pipe
        if graph == "text_encoder":
            out = p.text_encoder(t["input_ids"])
            return {"last_hidden_state": out[0].numpy(), "pooler_output": out[1].numpy()}
        if graph == "unet":
            out = p.unet(t["sample"], t["timestep"], t["encoder_hidden_states"], return_dict=False)
            return {"out_sample": out[0].numpy()}
        if graph == "vae_decoder":
            return {"sample": p.vae.decode(t["latent_sample"], return_dict=False)[0].numpy()}
        return {"latent_parameters": p.vae.encode(t["sample"]).latent_dist.parameters.numpy()}
