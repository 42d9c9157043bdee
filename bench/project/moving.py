"""A video of the built-in model's: docs/images/video.png, and how far its frames are from PyTorch's.

`shapes` draws pictures. Between its layers go AnimateDiff's motion modules, whose last layers are zero: each frame is
the model's own. A clip of a moving circle is drawn anew by PyTorch, and by the artifact, which `latentc compile` makes
and `latentc generate` writes `clip.mp4` with.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "video.png"

FRAMES, SIDE = 8, 64
PROMPT = "a large red circle on a blue background"
OPTIONS: dict[str, Any] = {"steps": 20, "guidance": 3.0, "strength": 0.6, "seed": 7}


def model(folder: Path) -> Any:
    """AnimateDiff's video-to-video pipeline with the weights of `shapes`, saved as a folder."""
    import torch
    from diffusers import AnimateDiffVideoToVideoPipeline, DiffusionPipeline, MotionAdapter

    shapes = DiffusionPipeline.from_pretrained(
        ROOT / "bench" / "reference" / "shapes", torch_dtype=torch.float32
    )
    adapter = MotionAdapter(
        block_out_channels=tuple(shapes.unet.config.block_out_channels),
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=4,
    )
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "proj_out" in name:
                parameter.zero_()
    parts = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    pipe = AnimateDiffVideoToVideoPipeline(
        motion_adapter=adapter, **{name: getattr(shapes, name) for name in parts}
    )
    pipe.to(torch.float32)
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn() -> list[Image]:
    """A circle that moves from the left to the right."""
    from PIL import Image, ImageDraw

    clip = []
    for at in range(FRAMES):
        frame = Image.new("RGB", (SIDE, SIDE), (40, 70, 180))
        left = 2 + at * (SIDE - 36) // (FRAMES - 1)
        ImageDraw.Draw(frame).ellipse((left, 16, left + 32, 48), (200, 60, 50))
        clip.append(frame)
    return clip


def pytorchs(pipe: Any, clip: Sequence[Image]) -> list[Image]:
    """What PyTorch makes of the clip."""
    import torch

    return list(
        pipe(
            prompt=PROMPT,
            video=list(clip),
            num_inference_steps=OPTIONS["steps"],
            guidance_scale=OPTIONS["guidance"],
            strength=OPTIONS["strength"],
            generator=torch.Generator().manual_seed(OPTIONS["seed"]),
        ).frames[0]
    )


def latentc(*arguments: object) -> None:
    """Runs a command of latentc's."""
    subprocess.run([sys.executable, "-m", "latentc", *map(str, arguments)], check=True, cwd=ROOT)


def psnr(a: Sequence[Image], b: Sequence[Image]) -> float:
    """Of all frames together, in dB."""
    difference = [np.asarray(x, np.float64) - np.asarray(y, np.float64) for x, y in zip(a, b, strict=True)]
    return float(10 * np.log10(255**2 / max(float(np.mean(np.square(difference))), 1e-9)))


def sheet(rows: Sequence[Sequence[Image]], scale: int = 2) -> Image:
    """A row of frames for each video."""
    from PIL import Image

    side, gap = SIDE * scale, 4
    page = Image.new("RGB", ((side + gap) * FRAMES + gap, (side + gap) * len(rows) + gap), "white")
    for y, row in enumerate(rows):
        for x, frame in enumerate(row):
            large = frame.resize((side, side), Image.Resampling.LANCZOS)
            page.paste(large, (gap + x * (side + gap), gap + y * (side + gap)))
    return page


def main(args: Sequence[str] | None = None) -> int:
    """Compiles, draws, and writes the picture; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.project.moving", description=__doc__)
    parser.add_argument("--target", default="openvino")
    parser.add_argument("--out", type=Path, default=PICTURE, help="where the picture goes")
    parsed = parser.parse_args(args)
    from runtimes import media

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = drawn()
        reference = pytorchs(model(folder / "model"), clip)
        (folder / "in").mkdir()
        for at, frame in enumerate(clip):
            frame.save(folder / "in" / f"{at}.png")
        size = ("--size", SIDE, "--frames", FRAMES, "--precision", "fp32")
        latentc("compile", folder / "model", folder / "out", "--target", parsed.target, *size)
        options = [text for key, value in OPTIONS.items() for text in (f"--{key}", value)]
        for output in ("frames/", "clip.mp4"):
            latentc(
                "generate",
                folder / "out",
                PROMPT,
                "--arg",
                f"video=@{folder / 'in'}",
                *options,
                "-o",
                f"{folder}/{output}",
            )
        frames, played = media.read(folder / "frames"), media.read(folder / "clip.mp4")
    print(f"frames in PNG files: {psnr(frames, reference):.1f} dB to PyTorch's")
    print(f"frames of clip.mp4: {psnr(played, reference):.1f} dB to PyTorch's")
    sheet((clip, reference, played)).save(parsed.out, optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
