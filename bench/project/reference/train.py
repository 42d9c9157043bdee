"""Train the reference model: python -m bench.project.reference.train --out DIR

Stages: the VAE on freshly drawn pictures; their latents, once; text encoder and UNet together on the
latents; the diffusers folder. Each stage leaves a file in DIR/work and is skipped when that is
finished; a killed run goes on from its last checkpoint. Same seed and workers, same weights (on one
machine and one torch version).
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from bench.project.reference import models, workers
from bench.project.reference.evaluate import Settings, evaluate, sheet
from bench.project.reference.folder import save_pipeline
from bench.project.reference.models import LATENT_SIZE
from bench.project.reference.workers import Worker
from bench.reference.shape_scenes import CENTRE, IMAGE_SIZE, RADIUS, Caption, draw, jitter, split

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that shapes the weights. Steps are optimizer steps; batches count all workers."""

    seed: int = 0
    workers: int = 2
    vae_crop_steps: int = 1000
    vae_steps: int = 1600
    vae_batch: int = 16
    vae_rate: float = 1.5e-3
    kl_weight: float = 1e-4
    drawings: int = 4
    unet_steps: int = 8000
    unet_batch: int = 48
    noisings: int = 2
    unet_rate: float = 1e-3
    empty_captions: float = 0.1
    ema: float = 0.998
    warmup: int = 100
    decay: float = 0.3
    checkpoint_every: int = 100


class Progress:
    """Prints a stage's loss and pace, every few steps."""

    def __init__(self, stage: str, first: int, total: int) -> None:
        self.stage, self.first, self.total = stage, first, total
        self.start = time.monotonic()
        self.losses: list[float] = []

    def step(self, step: int, loss: float) -> None:
        self.losses.append(loss)
        if (step + 1) % 25 and step + 1 != self.total:
            return
        pace = (time.monotonic() - self.start) / (step + 1 - self.first)
        left = pace * (self.total - step - 1)
        mean = sum(self.losses) / len(self.losses)
        self.losses.clear()
        print(
            f"{self.stage} {step + 1}/{self.total}  loss {mean:.4f}  {pace:.2f} s/step"
            f"  {left / 60:.0f} min left",
            flush=True,
        )


class Average:
    """Exponential moving average of parameters, kept beside them."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values = [p.detach().clone() for p in parameters]

    def update(self, parameters: list[nn.Parameter], step: int) -> None:
        # Short memory at the start, or the random initial weights would linger.
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1.0 - decay)


def optimizer_for(parameters: list[nn.Parameter], rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, total: int, recipe: Recipe) -> None:
    """Linear warm-up, level, then linearly down to zero over the last `recipe.decay` of the steps."""
    # Level rather than a cosine, so that the length can still be chosen while a run is under way.
    rise = (step + 1) / recipe.warmup
    fall = (total - step) / max(1.0, total * recipe.decay)
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1.0, rise, fall)


def generator(recipe: Recipe, stage: int, step: int) -> torch.Generator:
    """Randomness of one step, from its number alone: a resumed run draws what an unbroken one would."""
    return torch.Generator().manual_seed((recipe.seed * 10 + stage) * 10_000_000 + step)


def store(path: Path, state: State) -> None:
    """Write a checkpoint whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def pixels(captions: list[Caption], rng: random.Random) -> Tensor:
    """Fresh drawings of the captions, float32 [B, 3, 64, 64] in [-1, 1]."""
    drawn = np.stack([np.asarray(draw(caption, jitter(rng))) for caption in captions])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def crop(images: Tensor, chance: torch.Generator) -> Tensor:
    """One random quarter of the pictures, [B, C, H/2, W/2]: a convolutional network learns most of
    what it needs from those, at a quarter of the cost."""
    side = images.shape[-1] // 2
    top, left = torch.randint(side + 1, (2,), generator=chance).tolist()
    return images[:, :, top : top + side, left : left + side]


def train_vae(worker: Worker, recipe: Recipe, work: Path) -> None:
    """Leaves work/vae.pt: {"step", "average", ...} with the weights' moving average."""
    torch.manual_seed(recipe.seed)
    path = work / "vae.pt"
    vae = models.vae()
    parameters = list(vae.parameters())
    optimizer = optimizer_for(parameters, recipe.vae_rate)
    average = Average(parameters, 0.99)
    first = resume(path, {"vae": vae}, optimizer, average)
    captions, _ = split()
    progress = Progress("vae", first, recipe.vae_steps)
    mine = worker.share(recipe.vae_batch)
    for step in range(first, recipe.vae_steps):
        set_rate(optimizer, recipe.vae_rate, step, recipe.vae_steps, recipe)
        chance = generator(recipe, 1, step)
        chosen = torch.randint(len(captions), (recipe.vae_batch,), generator=chance).tolist()[mine]
        images = pixels([captions[i] for i in chosen], random.Random(step * worker.count + worker.rank))
        if step < recipe.vae_crop_steps:
            images = crop(images, chance)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn((recipe.vae_batch, *posterior.mean.shape[1:]), generator=chance)[mine]
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        error = decoded - images
        spread = posterior.mean.square() + posterior.var - 1.0 - posterior.logvar
        loss = error.abs().mean() + error.square().mean() + recipe.kl_weight * 0.5 * spread.mean()
        learn(worker, loss, parameters, optimizer)
        average.update(parameters, step)
        if worker.leads:
            progress.step(step, error.detach().square().mean().item())
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.vae_steps:
                store(path, checkpoint(step + 1, {"vae": vae}, optimizer, average))


def encode_drawings(recipe: Recipe, work: Path) -> None:
    """Leaves work/latents.pt: "latents" [captions, drawings, 4, 16, 16] and their channels' "mean", "std".

    The latents are normalized by those; `normalize_latents` makes the VAE itself do so.
    """
    path = work / "latents.pt"
    if path.exists():
        return
    vae = models.vae()
    load_average(work / "vae.pt", [vae])
    vae.eval()
    captions, _ = split()
    rng = random.Random(recipe.seed)
    encoded = []
    with torch.no_grad():
        for start in range(0, len(captions), 8):
            group = [c for c in captions[start : start + 8] for _ in range(recipe.drawings)]
            encoded.append(vae.encode(pixels(group, rng)).latent_dist.mean)
            if start % 160 == 0:
                print(f"latents {start}/{len(captions)}", flush=True)
    latents = torch.cat(encoded)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    latents = (latents - mean[:, None, None]) / std[:, None, None]
    store(path, {"latents": latents.unflatten(0, (len(captions), -1)), "mean": mean, "std": std})


def normalize_latents(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold a shift and scale of each latent channel into the 1x1 convolutions around the latents.

    Diffusion wants every channel centred and of unit variance; a pipeline offers one scale for all.
    """
    channels = len(mean)
    with torch.no_grad():
        into, out = vae.quant_conv, vae.post_quant_conv
        into.bias[:channels] -= mean
        into.weight[:channels] /= std[:, None, None, None]
        into.bias[:channels] /= std
        into.bias[channels:] -= 2.0 * std.log()
        out.bias += (out.weight[:, :, 0, 0] * mean).sum(1)
        out.weight *= std[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)


def train_unet(worker: Worker, recipe: Recipe, work: Path) -> None:
    """Leaves work/unet.pt: text encoder and UNet, trained together."""
    torch.manual_seed(recipe.seed + 1)
    path = work / "unet.pt"
    tokens = models.tokenizer()
    text_encoder, unet = models.text_encoder(tokens), models.unet()
    unet.to(memory_format=torch.channels_last)  # a tenth of a step, on CPUs
    text_encoder.train()
    parts: dict[str, nn.Module] = {"text_encoder": text_encoder, "unet": unet}
    parameters = [p for part in parts.values() for p in part.parameters()]
    optimizer = optimizer_for(parameters, recipe.unet_rate)
    average = Average(parameters, recipe.ema)
    first = resume(path, parts, optimizer, average)
    captions, _ = split()
    ids = tokens([c.text for c in captions] + [""], padding="max_length", return_tensors="pt").input_ids
    latents = torch.load(work / "latents.pt", weights_only=True)["latents"]
    importance = torch.stack([attention_to_shape(c) for c in captions] + [torch.ones(IMPORTANCE_SHAPE)])
    signal = models.scheduler().alphas_cumprod
    batch, mine = recipe.unet_batch, worker.share(recipe.unet_batch)
    progress = Progress("unet", first, recipe.unet_steps)
    for step in range(first, recipe.unet_steps):
        set_rate(optimizer, recipe.unet_rate, step, recipe.unet_steps, recipe)
        chance = generator(recipe, 2, step)
        indices = torch.randint(len(captions), (batch // recipe.noisings,), generator=chance)
        silent = torch.rand(indices.shape, generator=chance) < recipe.empty_captions
        words = torch.where(silent, len(captions), indices)
        drawing = torch.randint(recipe.drawings, (batch,), generator=chance)
        clean = latents[indices.repeat_interleave(recipe.noisings), drawing]
        timesteps = noisy_timesteps(batch, len(signal), chance)
        noise = torch.randn(clean.shape, generator=chance)
        noisy, target = noised(clean, noise, signal[timesteps])
        # The text encoder costs a quarter of a step: each caption is encoded once for several noisings.
        hidden = text_encoder(ids[words[worker.share(len(words))]])[0].repeat_interleave(recipe.noisings, 0)
        predicted = unet(noisy[mine], timesteps[mine], hidden).sample
        weight = importance[words].repeat_interleave(recipe.noisings, 0)[mine]
        loss = (weight * (predicted - target[mine]).square()).mean()
        learn(worker, loss, parameters, optimizer)
        average.update(parameters, step)
        if worker.leads:
            progress.step(step, loss.item())
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.unet_steps:
                store(path, checkpoint(step + 1, parts, optimizer, average))


IMPORTANCE_SHAPE = (1, LATENT_SIZE, LATENT_SIZE)


def attention_to_shape(caption: Caption) -> Tensor:
    """Weight of each place in the loss, float32 [1, 16, 16], mean 1: half of the loss is the picture's
    mean error, half the mean error of the square that the shape may fill.

    A small shape is a twentieth of its picture, and its outline less: with equal weights colour and
    shape are learned last. A weight that only the caption decides leaves the optimum where it was.
    """
    cell = IMAGE_SIZE / LATENT_SIZE
    reach = RADIUS[caption.size] + cell / 2
    places = (torch.arange(LATENT_SIZE) + 0.5) * cell
    across, down = ((places - centre).abs() <= reach for centre in CENTRE[caption.position])
    inside = (down[:, None] & across[None, :]).float()[None]
    return 0.5 + 0.5 * inside / inside.mean()


def noised(clean: Tensor, noise: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Latents with noise, channels last, and the v that is to be said of them, both [B, 4, 16, 16].

    Args:
        signal: the picture's share of the variance, float32 [B], from 0 to 1.
    """
    root, other = (share.sqrt()[:, None, None, None] for share in (signal, 1.0 - signal))
    noisy = root * clean + other * noise
    return noisy.contiguous(memory_format=torch.channels_last), root * noise - other * clean


def noisy_timesteps(batch: int, count: int, chance: torch.Generator) -> Tensor:
    """Timesteps int64 [B], more of them noisy: layout is decided there, and the last is where
    sampling starts, from noise and caption alone."""
    draws = torch.rand(batch, generator=chance)
    timesteps = (draws.pow(0.6) * count).long().clamp(max=count - 1)
    timesteps[torch.rand(batch, generator=chance) < 0.1] = count - 1
    return timesteps


def learn(
    worker: Worker, loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    worker.average_gradients(parameters)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def checkpoint(
    step: int, parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer, average: Average
) -> State:
    return {
        "step": step,
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "optimizer": optimizer.state_dict(),
        "average": average.values,
    }


def resume(
    path: Path, parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer, average: Average
) -> int:
    """Load a checkpoint if there is one; the step to go on from."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    optimizer.load_state_dict(state["optimizer"])
    average.values = state["average"]
    return int(state["step"])


def load_average(path: Path, parts: list[nn.Module]) -> int:
    """Put a checkpoint's averaged weights into its modules; how many steps they were trained."""
    state = torch.load(path, weights_only=True)
    parameters: Iterator[nn.Parameter] = (p for part in parts for p in part.parameters())
    with torch.no_grad():
        for parameter, value in zip(parameters, state["average"], strict=True):
            parameter.copy_(value)
    return int(state["step"])


def save(work: Path, folder: Path) -> None:
    """The pipeline of the newest checkpoints, as a diffusers folder in fp16."""
    tokens = models.tokenizer()
    vae, text_encoder, unet = models.vae(), models.text_encoder(tokens), models.unet()
    load_average(work / "vae.pt", [vae])
    load_average(work / "unet.pt", [text_encoder, unet])
    data = torch.load(work / "latents.pt", weights_only=True)
    normalize_latents(vae, data["mean"], data["std"])
    save_pipeline(folder, tokens, text_encoder, unet, vae, models.scheduler())


def main() -> None:
    defaults = Recipe()
    parser = argparse.ArgumentParser(prog="python -m bench.project.reference.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="DIR/work and DIR/shapes are written")
    parser.add_argument("--stage", choices=("vae", "latents", "unet", "save", "all"), default="all")
    parser.add_argument("--prompts", type=int, default=20, help="held-out prompts to judge the result on")
    for name, value in asdict(defaults).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    options = vars(parser.parse_args())
    out, stage, prompts = options.pop("out"), options.pop("stage"), options.pop("prompts")
    recipe = Recipe(**options)
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    (work / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2), encoding="utf-8")
    if stage in ("vae", "all"):
        workers.run(functools.partial(train_vae, recipe=recipe, work=work), recipe.workers)
    if stage in ("latents", "all"):
        encode_drawings(recipe, work)
    if stage in ("unet", "all"):
        workers.run(functools.partial(train_unet, recipe=recipe, work=work), recipe.workers)
    if stage in ("save", "all"):
        torch.set_num_threads(recipe.workers)
        save(work, out / "shapes")
        print(f"saved {out / 'shapes'}", flush=True)
        result, images = evaluate(out / "shapes", Settings(prompts=prompts))
        sheet(images).save(out / "sheet.png")
        print(f"prompt accuracy {result.accuracy:.1%} over {len(images)}: {result.attributes}", flush=True)


if __name__ == "__main__":
    main()
