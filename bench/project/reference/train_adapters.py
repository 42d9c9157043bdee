"""Train the adapters of the reference model: python -m bench.project.reference.train_adapters

The model's own weights stay as they are. Each adapter learns, in minutes on one core, from latents of fresh drawings,
with the loss that the model was trained with. What the judge asks it is never drawn in training.
"""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from diffusers.utils import convert_state_dict_to_kohya
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.project.reference import train
from bench.project.reference.adapter_pictures import Settings
from bench.project.reference.adapter_scenes import NEIGHBOURS, TOKEN, Request, edge_map, mask
from bench.project.reference.trained_adapters import ADAPTERS, ADAPTERS_DIR, TrainedAdapter
from bench.project.reference.workers import Worker
from bench.reference import SHAPES_DIR
from bench.reference.shape_scenes import IDEAL, Caption, Placement, jitter, split
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
    # Where a stroke lies is decided in the widest latents, which convolutions of the outer blocks make.
    "outline": Recipe(
        1300,
        3e-3,
        drawings=192,
        refined=8,
        layers=rf".*\.attn2\.({ATTENTION})|(down_blocks\.[01]|up_blocks\.[12])\.resnets\..*\.conv[12]",
        rank=8,
    ),
    # Which words mean which colours is decided where the denoiser reads them.
    "gray": Recipe(600, 3e-3, drawings=320, refined=0, layers=rf".*\.attn2\.({ATTENTION})", rank=8),
    "vermilion": Recipe(40, 4e-3, batch=4, drawings=160, refined=0),
    "edges": Recipe(1300, 2e-3, drawings=640, refined=0),
}


class Student:
    """What is trained of a pipeline, all of whose own weights stay as they are."""

    def __init__(self, pipe: Any) -> None:
        for part in (pipe.vae, pipe.text_encoder, pipe.unet):
            part.requires_grad_(False)
        pipe.unet.to(memory_format=torch.channels_last)
        self.pipe = pipe
        self.teacher = copy.deepcopy(pipe.unet)
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

    def taught(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """What the denoiser says without what is trained, of prompts' ids int64 [B, 77]."""
        with torch.no_grad():
            predicted: Tensor = self.teacher(noisy, timesteps, self.pipe.text_encoder(ids)[0]).sample
        return predicted

    def loss(self, data: Lessons, chosen: Tensor, recipe: Recipe, chance: torch.Generator) -> Tensor:
        """The denoiser's mean error in the pictures `chosen`, int64 [B], with noise in their latents."""
        silent = torch.rand(chosen.shape, generator=chance) < recipe.empty
        prompts = torch.where(silent, len(data.latents), chosen)
        signal = self.pipe.scheduler.alphas_cumprod
        timesteps = train.noisy_timesteps(len(chosen), len(signal), chance)
        clean = data.latents[chosen]
        noise = torch.randn(clean.shape, generator=chance)
        noisy, target = train.noised(clean, noise, signal[timesteps])
        if data.alone is not None:
            # What the model says by itself of another prompt: less is left to chance than in the noise of a drawing.
            target = self.taught(noisy, timesteps, data.alone[prompts])
        predicted = self.predict(noisy, timesteps, self.hidden(data.ids[prompts]), data.edges[chosen])
        error: Tensor = (data.importance[chosen] * (predicted - target).square()).mean()
        return error

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

    def loss(self, data: Lessons, chosen: Tensor, recipe: Recipe, chance: torch.Generator) -> Tensor:
        """How far the colour inside of drawn shapes is from that of the pictures `chosen`, int64 [B].

        They are drawn with all steps and with guidance: what a denoiser says of one step's noise does not tell which
        colour all of them together come to, where it lies between two that the model knows.
        """
        settings, scheduler, vae = Settings(), self.pipe.scheduler, self.pipe.vae
        scheduler.set_timesteps(settings.steps)
        hidden = torch.cat([self.empty.expand(len(chosen), -1, -1), self.hidden(data.ids[chosen])])
        latents = torch.randn(data.latents[chosen].shape, generator=chance)
        for timestep in scheduler.timesteps:
            both = self.pipe.unet(torch.cat([latents, latents]), timestep, hidden).sample
            without, of_prompt = both.chunk(2)
            guided = without + settings.guidance * (of_prompt - without)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        drawn = vae.decode(latents / vae.config.scaling_factor).sample
        area = data.insides[chosen]
        error: Tensor = (area * (drawn - data.pictures[chosen]).square()).mean() / area.mean()
        return error

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
        alone: the same of prompts of which the model draws these pictures by itself; None where there are none.
        importance: of each place in the loss, float32 [N, 1, 16, 16].
        edges: float32 [N, 3, 64, 64].
        pictures: what is to be drawn, float32 [N, 3, 64, 64], from -1 to 1.
        insides: 1 inside of the shape and away from its edge, else 0, float32 [N, 1, 64, 64].
    """

    latents: Tensor
    ids: Tensor
    alone: Tensor | None
    importance: Tensor
    edges: Tensor
    pictures: Tensor
    insides: Tensor


def lessons(adapter: TrainedAdapter, pipe: Any, recipe: Recipe) -> Lessons:
    """Drawings of what the adapter is to draw, encoded."""
    chance = random.Random(recipe.seed)
    requests = chance.choices(training_requests(adapter), k=recipe.drawings)
    # Only edges tell where exactly a shape is.
    placements = [jitter(chance) if adapter.kind == "controlnet" else IDEAL for _ in requests]
    pairs = [(r.caption, placement) for r, placement in zip(requests, placements, strict=True)]
    pictures = as_tensor([adapter.draw(*pair) for pair in pairs]) * 2.0 - 1.0
    latents = torch.cat([refined(pipe.vae, chunk, recipe.refined) for chunk in pictures.split(16)])
    check = range(0, len(pairs), len(pairs) // 32)
    shares = adapter.shares(
        decoded(pipe.vae, latents[:: len(pairs) // 32]), [requests[index] for index in check]
    )
    print(f"{adapter.name}: what the VAE draws of {len(check)} of them is judged {shares}", flush=True)
    alone = [adapter.alone(r.caption).text for r in requests] if adapter.alone else None
    return Lessons(
        latents=latents * pipe.vae.config.scaling_factor,
        ids=tokens(pipe, [*(request.prompt for request in requests), ""]),
        alone=tokens(pipe, [*alone, ""]) if alone else None,
        importance=torch.stack([train.attention_to_shape(caption) for caption, _ in pairs]),
        edges=as_tensor([edge_map(*pair) for pair in pairs]),
        pictures=pictures,
        insides=torch.stack([inside(*pair) for pair in pairs]),
    )


def inside(caption: Caption, placement: Placement) -> Tensor:
    """Where the caption's shape is, two pixels away from its edge, float32 [1, 64, 64]."""
    area = np.asarray(mask(caption, placement).filter(ImageFilter.MinFilter(5)))
    return torch.from_numpy(area > 127).float()[None]


def tokens(pipe: Any, prompts: Sequence[str]) -> Tensor:
    """Int64 [N, 77]."""
    ids: Tensor = pipe.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    return ids


def refined(vae: Any, pictures: Tensor, rounds: int) -> Tensor:
    """Latents [B, 4, 16, 16] of pictures [B, 3, 64, 64], from -1 to 1, moved by gradients to where the VAE draws them.

    It has seen filled shapes only: of an outline it encodes the wrong colour.
    """
    with torch.no_grad():
        latents: Tensor = vae.encode(pictures).latent_dist.mean.clone()
    if not rounds:
        return latents
    optimizer = torch.optim.Adam([latents.requires_grad_(True)], lr=0.05)
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
    # A row of a table is not to be pulled to nothing, nor is a row that is not trained.
    optimizer = torch.optim.AdamW(learner.parameters, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = train.Recipe(warmup=10, decay=0.7)
    progress = train.Progress(adapter.name, 0, recipe.steps)
    for step in range(recipe.steps):
        train.set_rate(optimizer, recipe.rate, step, recipe.steps, schedule)
        chance = train.generator(schedule, 3, step)
        chosen = torch.randint(len(data.latents), (recipe.batch,), generator=chance)
        loss = learner.loss(data, chosen, recipe, chance)
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
