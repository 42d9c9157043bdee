"""The size that is drawn where none is asked for: the pipeline's own, or the nearest that the artifact has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from artifacts.manifest import DimRange
from runtimes.requested_sizes import numbers, sides


class Latent:
    """Its own pictures have 512 pixels a side, as Stable Diffusion's pipelines reckon it."""

    vae_scale_factor = 8
    unet = SimpleNamespace(config=SimpleNamespace(sample_size=64))

    def __call__(
        self, prompt: str = "", image: Any = None, height: int | None = None, width: int | None = None
    ) -> None:
        """Draws."""


class Packed(Latent):
    """1,024 pixels, as FLUX's."""

    default_sample_size = 128


class Stated:
    """1,024 x 512, as the signature says."""

    def __call__(self, height: int = 512, width: int = 1024) -> None:
        """Draws."""


class Following:
    """Pictures as large as the one that it starts from."""

    def __call__(self, image: Any = None) -> None:
        """Draws."""


def limits(low: int, high: int, step: int = 1) -> dict[str, DimRange]:
    span = DimRange(min=low, max=high, step=step)
    return {"width": span, "height": span}


@pytest.mark.parametrize(
    ("pipe", "spans", "passed"),
    [
        (Latent(), limits(512, 512), (512, 512)),
        (Latent(), limits(256, 1024), (None, None)),
        (Latent(), limits(256, 448, 64), (448, 448)),
        (Latent(), limits(768, 1024), (768, 768)),
        (Packed(), limits(256, 960, 64), (960, 960)),
        (Packed(), limits(256, 1024), (None, None)),
        (Stated(), limits(256, 768), (768, None)),
        (Following(), limits(256, 768), (None, None)),
        (Latent(), {}, (None, None)),
    ],
)
def test_what_is_passed_where_no_size_is_asked_for(
    pipe: Any, spans: dict[str, DimRange], passed: tuple[int | None, int | None]
) -> None:
    assert sides(None, spans, pipe) == passed


def test_a_picture_of_a_size_that_the_artifact_has_stands_for_one_that_it_has_not() -> None:
    def passed(image: Any, spans: dict[str, DimRange], pipe: Any = None) -> Any:
        chosen = numbers(None, None, image, {}, spans, pipe or Packed())
        return chosen["width"], chosen["height"]

    picture = Image.new("RGB", (384, 512))
    assert passed(picture, limits(256, 512, 128)) == (384, 512)
    assert passed(picture, limits(256, 512, 256)) == (512, 512)
    assert passed("a path", limits(256, 512)) == (512, 512)
    assert passed(picture, limits(256, 1024)) == (None, None)
    assert passed(picture, limits(256, 512), Following()) == (None, None)
    assert numbers(None, None, picture, {"width": 256}, limits(256, 512), Packed())["width"] is None
