"""The pieces of training that a shorter run would not show to be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.project.reference import models, train
from bench.project.reference.workers import Worker


def test_the_last_timestep_hides_the_picture_completely() -> None:
    assert models.scheduler().alphas_cumprod[-1] == pytest.approx(0.0, abs=1e-7)


def test_normalizing_the_latents_does_not_change_what_the_vae_draws() -> None:
    torch.manual_seed(0)
    vae = models.vae().eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.encode(images).latent_dist
        drawn = vae.decode(before.mean).sample
        mean, std = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
        train.normalize_latents(vae, mean, std)
        after = vae.encode(images).latent_dist
        again = vae.decode(after.mean).sample
    torch.testing.assert_close(again, drawn, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.std, before.std / std[:, None, None], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


def test_the_rate_warms_up_stays_and_ends_at_nothing() -> None:
    recipe = train.Recipe(warmup=10, decay=0.5)
    optimizer = train.optimizer_for([torch.nn.Parameter(torch.zeros(1))], 1.0)

    def rate(step: int) -> float:
        train.set_rate(optimizer, 2.0, step, 100, recipe)
        return float(optimizer.param_groups[0]["lr"])

    assert rate(0) == pytest.approx(0.2)
    assert rate(9) == rate(50) == 2.0
    assert rate(75) == pytest.approx(1.0)
    assert rate(99) == pytest.approx(0.04)


def test_timesteps_lean_to_noise_and_often_start_from_nothing_else() -> None:
    timesteps = train.noisy_timesteps(10_000, 1000, torch.Generator().manual_seed(0))
    assert timesteps.min() >= 0
    assert timesteps.max() == 999
    assert timesteps.float().mean() > 600
    assert 0.08 < (timesteps == 999).float().mean() < 0.13


def test_workers_share_a_batch_without_overlap() -> None:
    batch = list(range(12))
    shares = [batch[Worker(rank, 3).share(12)] for rank in range(3)]
    assert [item for share in shares for item in share] == batch
    with pytest.raises(ValueError, match="a batch of 10 cannot be shared by 3 workers"):
        Worker(0, 3).share(10)


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    short = train.Recipe(vae_crop_steps=4, vae_steps=4, vae_batch=2, warmup=1, checkpoint_every=2, workers=1)

    def weights(folder: Path) -> list[torch.Tensor]:
        values: list[torch.Tensor] = torch.load(folder / "vae.pt", weights_only=True)["average"]
        return values

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    train.train_vae(Worker(0, 1), short, whole)

    class Killed(Exception):
        pass

    class Dying(Worker):
        def average_gradients(self, parameters: object) -> None:
            nonlocal steps
            steps += 1
            if steps == 4:
                raise Killed

    steps = 0
    with pytest.raises(Killed):
        train.train_vae(Dying(0, 1), short, broken)
    train.train_vae(Worker(0, 1), short, broken)
    for one, other in zip(weights(whole), weights(broken), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
