"""Prompt accuracy of the reference model in PyTorch: python -m bench.project.reference.evaluate

Draws the 200 held-out prompts and prints how often each attribute was read back right.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.reference import SHAPES_DIR
from bench.reference.judge import attribute_accuracy, mean
from bench.reference.shape_scenes import HELD_OUT, Caption, split

if TYPE_CHECKING:
    from PIL import Image

_BATCH = 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What the figures depend on, besides the weights."""

    prompts: int = HELD_OUT
    steps: int = 20
    guidance: float = 3.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """Shares from 0 to 1; `seconds` for all pictures, loading not counted."""

    settings: Settings
    attributes: dict[str, float]
    accuracy: float
    seconds: float


def generate(model: Path, captions: Sequence[Caption], settings: Settings) -> list[Image.Image]:
    """One 64x64 picture for each caption, float32 PyTorch on the CPU. Picture i has seed `seed + i`."""
    from runtimes import reference

    result = reference.load(model, batch=_BATCH).generate(
        [caption.text for caption in captions],
        seed=settings.seed,
        steps=settings.steps,
        guidance=settings.guidance,
    )
    return list(result.images)


def evaluate(model: Path, settings: Settings) -> tuple[Result, list[Image.Image]]:
    """Prompt accuracy on the first `settings.prompts` held-out captions, and the pictures judged."""
    captions = split()[1][: settings.prompts]
    start = time.perf_counter()
    images = generate(model, captions, settings)
    seconds = time.perf_counter() - start
    shares = attribute_accuracy(images, captions)
    return Result(settings, shares, mean(shares), seconds), images


def sheet(images: Sequence[Image.Image], columns: int = 10) -> Image.Image:
    """The pictures side by side, row after row."""
    from PIL import Image as Images

    width, height = images[0].size
    result = Images.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for index, image in enumerate(images):
        result.paste(image, (index % columns * width, index // columns * height))
    return result


def main() -> None:
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m bench.project.reference.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=SHAPES_DIR, help="a diffusers folder")
    for name, value in asdict(defaults).items():
        parser.add_argument("--" + name, type=type(value), default=value)
    parser.add_argument("--sheet", type=Path, help="also write the pictures into one PNG")
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    model, target, as_json = options.pop("model"), options.pop("sheet"), options.pop("json")
    result, images = evaluate(model, Settings(**options))
    if target is not None:
        sheet(images).save(target)
    if as_json:
        print(json.dumps(asdict(result), indent=2))
        return
    for name, share in result.attributes.items():
        print(f"{name:<11}{share:7.1%}")
    print(f"{'total':<11}{result.accuracy:7.1%}  ({len(images)} prompts, {result.seconds:.0f} s)")


if __name__ == "__main__":
    main()
