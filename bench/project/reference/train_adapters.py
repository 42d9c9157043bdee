"""Train the adapters of the reference model: python -m bench.project.reference.train_adapters

The model's own weights stay as they are. Each adapter learns, in minutes on one core, from latents of fresh drawings,
with the loss that the model was trained with. What the judge asks it is never drawn in training.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from diffusers.utils import convert_state_dict_to_kohya
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.project.reference import train
from bench.project.reference.adapter_pictures import Settings
from bench.project.reference.adapter_scenes import NEIGHBOURS, TOKEN, Request, edge_map
from bench.project.reference.trained_adapters import ADAPTERS, ADAPTERS_DIR, TrainedAdapter
from bench.project.reference.workers import Worker
from bench.reference import SHAPES_DIR
from bench.reference.shape_scenes import Caption, Placement, jitter, split
from runtimes.reference import load

METADATA = {"format": "pt"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What shapes an adapter's weights.

    Attributes:
        steps: of the optimizer, after each of which the rate has changed as `train.set_rate` says.
        rate: the highest learning rate.
        empty: share of empty prompts, which guidance needs.
        drawings: how many pictures it learns from.
        refined: how often their latents are moved towards what the VAE draws them best from.
        layers, rank: of a LoRA: a pattern of the layers' names, and the rank of what is added to each.
    """

    steps: int
    rate: float
    empty: float = 0.1
    batch: int = 8
    drawings: int = 160
    refined: int = 12
    seed: int = 0
    layers: str = ""
    rank: int = 4


ATTENTION = r"to_[qkv]|to_out\.0"
RECIPES: dict[str, Recipe] = {
    # Where a stroke lies is decided in the widest latents, which convolutions of the last blocks make.
    "outline": Recipe(
        800, 3e-3, drawings=256, refined=12, layers=rf".*\.({ATTENTION})|up_blocks\..*\.conv[12]"
    ),
    "gray": Recipe(
        500, 3e-3, drawings=320, refined=0, layers=rf".*\.attn2\.({ATTENTION})|up_blocks\..*\.conv[12]"
    ),
    # Without a prompt nothing is to be learned of its token.
    "teal": Recipe(240, 2e-2, empty=0.0, drawings=96, refined=4),
    "edges": Recipe(900, 2e-3, drawings=640, refined=0),
}


class Student:
    """What is trained of a pipeline, all of whose own weights stay as they are."""

    def __init__(self, pipe: Any) -> None:
        for part in (pipe.vae, pipe.text_encoder, pipe.unet):
            part.requires_grad_(False)
        pipe.unet.to(memory_format=torch.channels_last)
        self.pipe = pipe
        self.parameters: list[nn.Parameter] = []

    def hidden(self, ids: Tensor) -> Tensor:
        """ids int64 [B, 77] -> hidden states float32 [B, 77, 128]."""
        with torch.no_grad():
            states: Tensor = self.pipe.text_encoder(ids)[0]
        return states

    def predict(self, noisy: Tensor, timesteps: Tensor, hidden: Tensor, edges: Tensor) -> Tensor:
        """What the denoiser says of noisy latents [B, 4, 16, 16]; `edges` float32 [B, 3, 64, 64] from 0 to 1."""
        predicted: Tensor = self.pipe.unet(noisy, timesteps, hidden).sample
        return predicted

    def save(self, path: Path) -> None:
        """Writes fp16 safetensors."""
        raise NotImplementedError


class LoraStudent(Student):
    """A LoRA of the UNet, by PEFT; written in kohya's layout, which diffusers converts it to."""

    def __init__(self, pipe: Any, recipe: Recipe) -> None:
        from peft import LoraConfig

        super().__init__(pipe)
        pipe.unet.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules=recipe.layers))
        self.parameters = [p for p in pipe.unet.parameters() if p.requires_grad]

    def save(self, path: Path) -> None:
        from peft import get_peft_model_state_dict

        state = {f"unet.{name}": tensor for name, tensor in get_peft_model_state_dict(self.pipe.unet).items()}
        tensors = convert_state_dict_to_kohya(state)
        save_file({name: t.detach().half().contiguous() for name, t in tensors.items()}, path, METADATA)


class EmbeddingStudent(Student):
    """A token's row in the text encoder's table, which begins as the mean of its neighbours'."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        pipe.tokenizer.add_tokens([TOKEN])
        pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
        self.row = pipe.tokenizer.convert_tokens_to_ids(TOKEN)
        table = pipe.text_encoder.get_input_embeddings().weight
        words = pipe.tokenizer(list(NEIGHBOURS), add_special_tokens=False, return_tensors="pt").input_ids
        only = torch.zeros_like(table)
        only[self.row] = 1.0
        with torch.no_grad():
            table[self.row] = table[words.flatten()].mean(0)
        table.requires_grad_(True)
        table.register_hook(lambda gradient: gradient * only)
        self.parameters = [table]
        empty = pipe.tokenizer([""], padding="max_length", return_tensors="pt").input_ids
        self.empty = super().hidden(empty)

    def hidden(self, ids: Tensor) -> Tensor:
        states: Tensor = self.pipe.text_encoder(ids)[0]
        return states

    def predict(self, noisy: Tensor, timesteps: Tensor, hidden: Tensor, edges: Tensor) -> Tensor:
        """With guidance, which would move a colour that lies between two others towards one of them."""
        with torch.no_grad():
            without = super().predict(noisy, timesteps, self.empty.expand_as(hidden), edges)
        return without + Settings().guidance * (super().predict(noisy, timesteps, hidden, edges) - without)

    def save(self, path: Path) -> None:
        save_file({TOKEN: self.parameters[0].detach()[self.row][None].half().contiguous()}, path, METADATA)


class ControlNetStudent(Student):
    """A ControlNet that begins as the UNet's encoder without its attention: what edges say, no prompt changes."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        of_unet = pipe.unet.config
        self.controlnet = ControlNetModel(
            in_channels=of_unet.in_channels,
            down_block_types=("DownBlock2D",) * len(of_unet.block_out_channels),
            mid_block_type="UNetMidBlock2D",
            block_out_channels=of_unet.block_out_channels,
            layers_per_block=of_unet.layers_per_block,
            norm_num_groups=of_unet.norm_num_groups,
            cross_attention_dim=of_unet.cross_attention_dim,
            # Two of these steps halve the sides: as many as the VAE's.
            conditioning_embedding_out_channels=(8, 16, 32),
        )
        own, of_encoder = self.controlnet.state_dict(), pipe.unet.state_dict()
        self.controlnet.load_state_dict({**own, **{k: v for k, v in of_encoder.items() if k in own}})
        self.controlnet.to(memory_format=torch.channels_last)
        self.parameters = list(self.controlnet.parameters())

    def predict(self, noisy: Tensor, timesteps: Tensor, hidden: Tensor, edges: Tensor) -> Tensor:
        down, middle = self.controlnet(noisy, timesteps, hidden, controlnet_cond=edges, return_dict=False)
        predicted: Tensor = self.pipe.unet(
            noisy,
            timesteps,
            hidden,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return predicted

    def save(self, path: Path) -> None:
        self.controlnet.half().save_pretrained(path, safe_serialization=True)


def student(adapter: TrainedAdapter, pipe: Any, recipe: Recipe) -> Student:
    """What is to be trained."""
    if adapter.kind == "lora":
        return LoraStudent(pipe, recipe)
    return EmbeddingStudent(pipe) if adapter.kind == "embedding" else ControlNetStudent(pipe)


def training_requests(adapter: TrainedAdapter) -> list[Request]:
    """Without what the judge asks, and without the captions that the model itself was not trained on."""
    training, held_out = split()
    judged, unseen = {request.prompt for request in adapter.ask(held_out)}, set(held_out)
    return [r for r in adapter.ask(training) if r.prompt not in judged and r.caption not in unseen]


def as_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Float32 [B, 3, 64, 64], from 0 to 1."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() / 255.0


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """What is learned from.

    Attributes:
        latents: float32 [N, 4, 16, 16].
        ids: of the prompts, int64 [N + 1, 77]; the last is the empty one.
        importance: of each place in the loss, float32 [N, 1, 16, 16].
        edges: float32 [N, 3, 64, 64].
    """

    latents: Tensor
    ids: Tensor
    importance: Tensor
    edges: Tensor


def lessons(adapter: TrainedAdapter, pipe: Any, recipe: Recipe) -> Lessons:
    """Drawings of what the adapter is to draw, encoded."""
    chance = random.Random(recipe.seed)
    requests = chance.choices(training_requests(adapter), k=recipe.drawings)
    placements = [jitter(chance) for _ in requests]
    pairs = [(r.caption, placement) for r, placement in zip(requests, placements, strict=True)]
    pictures = as_tensor([adapter.draw(*pair) for pair in pairs]) * 2.0 - 1.0
    begun = torch.cat([first_latents(pipe.vae, adapter, pairs[i : i + 16]) for i in range(0, len(pairs), 16)])
    latents = torch.cat(
        [
            refined(pipe.vae, *chunk, recipe.refined)
            for chunk in zip(begun.split(16), pictures.split(16), strict=True)
        ]
    )
    check = range(0, len(pairs), len(pairs) // 32)
    shares = adapter.shares(
        decoded(pipe.vae, latents[:: len(pairs) // 32]), [requests[index] for index in check]
    )
    print(f"{adapter.name}: what the VAE draws of {len(check)} of them is judged {shares}", flush=True)
    prompts = [*(request.prompt for request in requests), ""]
    return Lessons(
        latents=latents * pipe.vae.config.scaling_factor,
        ids=pipe.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids,
        importance=torch.stack([train.attention_to_shape(caption) for caption, _ in pairs]),
        edges=as_tensor([edge_map(*pair) for pair in pairs]),
    )


def first_latents(vae: Any, adapter: TrainedAdapter, pairs: Sequence[tuple[Caption, Placement]]) -> Tensor:
    """Where the search for the pictures' latents [B, 4, 16, 16] begins."""
    like = [adapter.like(*pair) if adapter.like else (adapter.draw(*pair),) for pair in pairs]
    with torch.no_grad():
        encoded = [
            vae.encode(as_tensor(several) * 2.0 - 1.0).latent_dist.mean for several in zip(*like, strict=True)
        ]
    return torch.stack(encoded).mean(0)


def refined(vae: Any, latents: Tensor, pictures: Tensor, rounds: int) -> Tensor:
    """Latents [B, 4, 16, 16], moved by gradients to where the VAE draws pictures [B, 3, 64, 64], from -1 to 1, best.

    It has seen filled shapes only: of an outline it encodes the wrong colour.
    """
    latents = latents.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([latents], lr=0.05)
    for _ in range(rounds):
        difference = vae.decode(latents).sample - pictures
        optimizer.zero_grad()
        (difference.square() + difference.abs()).mean((1, 2, 3)).sum().backward()
        optimizer.step()
    return latents.detach()


def decoded(vae: Any, latents: Tensor) -> list[Image.Image]:
    """What the VAE draws."""
    with torch.no_grad():
        pictures = (vae.decode(latents).sample.clamp(-1.0, 1.0) + 1.0) * 127.5
    return [Image.fromarray(p) for p in pictures.round().byte().permute(0, 2, 3, 1).numpy()]


def train_adapter(adapter: TrainedAdapter, recipe: Recipe, path: Path) -> None:
    """Trains one adapter from the beginning and writes it to `path`."""
    torch.manual_seed(recipe.seed)
    pipe = load(SHAPES_DIR).diffusers
    learner = student(adapter, pipe, recipe)
    data = lessons(adapter, pipe, recipe)
    signal = pipe.scheduler.alphas_cumprod
    # A row of a table is not to be pulled to nothing, nor is a row that is not trained.
    optimizer = torch.optim.AdamW(learner.parameters, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = train.Recipe(warmup=10, decay=0.7)
    progress = train.Progress(adapter.name, 0, recipe.steps)
    for step in range(recipe.steps):
        train.set_rate(optimizer, recipe.rate, step, recipe.steps, schedule)
        chance = train.generator(schedule, 3, step)
        chosen = torch.randint(len(data.latents), (recipe.batch,), generator=chance)
        silent = torch.rand(recipe.batch, generator=chance) < recipe.empty
        timesteps = train.noisy_timesteps(recipe.batch, len(signal), chance)
        clean = data.latents[chosen]
        noise = torch.randn(clean.shape, generator=chance)
        noisy, target = train.noised(clean, noise, signal[timesteps])
        hidden = learner.hidden(data.ids[torch.where(silent, len(data.latents), chosen)])
        predicted = learner.predict(noisy, timesteps, hidden, data.edges[chosen])
        loss = (data.importance[chosen] * (predicted - target).square()).mean()
        train.learn(Worker(0, 1), loss, learner.parameters, optimizer)
        progress.step(step, loss.item())
    learner.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.project.reference.train_adapters", description=__doc__
    )
    names = [adapter.name for adapter in ADAPTERS]
    parser.add_argument("--adapter", action="append", choices=names, help="of these only; may be repeated")
    parser.add_argument("--out", type=Path, default=ADAPTERS_DIR, help="the folder that they are written to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.adapter or names:
        adapter = ADAPTERS[names.index(name)]
        train_adapter(adapter, RECIPES[name], options.out / adapter.file)
        print(f"wrote {options.out / adapter.file}", flush=True)


if __name__ == "__main__":
    main()
