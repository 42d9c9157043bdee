"""`python -m bench.project.tiled_decode ARTIFACT [SIDE...]`: a decoder's pictures in tiles beside the whole ones.

The same random latent is decoded whole and in tiles, each in a process of its own, the tiled one under a hard limit on
its memory. A whole picture that does not fit what is free is left out. Exits with 1 where a tiled picture is further
than it may be from the whole one, or does not hold the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts import worker
from artifacts.errors import LatentcError
from artifacts.manifest import Manifest
from artifacts.manifest_reading import read_manifest
from artifacts.memory import available
from bench import markdown_tables
from bench.project import memlimit
from bench.project.memlimit import MIB, Usage
from compiler.evidence.metrics import psnr
from runtimes.memory_plan import memory_plan
from runtimes.pipeline import load
from runtimes.tiles import Scaling, scaling_of

LEAST_PSNR = 45.0
"""dB of a picture in tiles to the whole one."""

LIMIT = 2048
"""MiB of the process that decodes in tiles."""

SHARE = 0.5
"""Of the memory that is free, what the process may take that decodes the whole picture."""


@dataclass(frozen=True)
class Row:
    """One side of a picture.

    Attributes:
        whole: of the process that decoded it whole; None where it was left out.
        psnr: dB; infinite where both are equal; None where one is missing.
    """

    side: int
    tile: int
    whole: Usage | None
    tiled: Usage
    psnr: float | None

    @property
    def holds(self) -> bool:
        """Whether the tiles are near enough, where there is a whole picture, and took no more than they may."""
        return self.tiled.status == 0 and (self.psnr is None or self.psnr >= LEAST_PSNR)


def decoder(manifest: Manifest) -> Scaling:
    """The graph that makes pictures of latents.

    Raises:
        LatentcError: there is none.
    """
    scalings = [scaling for scaling in map(scaling_of, manifest.graphs) if scaling is not None]
    enlarging = [scaling for scaling in scalings if scaling.enlarges]
    if not enlarging:
        raise LatentcError("the artifact has no graph that makes a larger picture of a smaller one.")
    return enlarging[0]


def decode() -> None:
    """What a process does: decodes as its argument, JSON, says, and writes the picture."""
    request = json.loads(sys.argv[1])
    side, artifact = request["side"], Path(request["artifact"])
    with load(artifact, tile=request["tile"], compute=request["compute"], cache=False) as pipeline:
        import torch

        scaling = decoder(pipeline.manifest)
        vae = pipeline.diffusers.vae
        cells = side // scaling.factor
        channels = vae.config.latent_channels
        latent = torch.randn(1, channels, cells, cells, generator=torch.Generator().manual_seed(1))
        picture = vae.decode(latent, return_dict=False)[0]
        np.save(request["out"], (picture.numpy()[0] / 2 + 0.5).clip(0, 1).transpose(1, 2, 0))


def measure(artifact: Path, side: int, tile: int, compute: str, folder: Path, limits: bool) -> Row:
    """Both pictures of one side.

    Args:
        folder: where they are written.

    Raises:
        LatentcError: no control group can be made here.
    """

    def run(kind: str | int, limit: int | None) -> tuple[Usage, Path]:
        out = folder / f"{side}-{kind}.npy"
        request = {"artifact": str(artifact), "side": side, "tile": kind, "compute": compute, "out": str(out)}
        command = [*worker.command("bench.project.tiled_decode:decode"), json.dumps(request)]
        return memlimit.run(command, limit), out

    tiled, tiled_file = run(tile, LIMIT * MIB if limits else None)
    whole = None
    if _fits(artifact, side, limits):
        # Where an estimate is wrong, this process ends and no other.
        whole, whole_file = run("off", int(available() * SHARE) if limits else None)
    error = None
    if whole is not None and not (whole.status or tiled.status):
        error = psnr(np.load(whole_file), np.load(tiled_file))
    return Row(side, tile, whole, tiled, error)


def _fits(artifact: Path, side: int, limits: bool) -> bool:
    """Whether a whole picture of the side may fit what is free, by half, and the graph was compiled for it.

    What was not measured is tried, under a limit.
    """
    manifest = read_manifest(artifact.absolute())
    scaling = decoder(manifest)
    cells = side // scaling.factor
    if not all(limit.min <= cells <= limit.max for limit in scaling.limits):
        return False
    memory = memory_plan(manifest, None).graphs[scaling.graph]
    if not memory.measured:
        return limits
    share = (cells / max(limit.max for limit in scaling.limits)) ** 2
    return memory.call(round(memory.largest * share)) <= available() * SHARE


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""

    def cells(usage: Usage | None) -> tuple[str, str]:
        if usage is None:
            return "does not fit", ""
        if usage.status:
            return "killed" if usage.killed else f"failed ({usage.status})", ""
        return f"{(usage.anonymous or 0) // MIB:,} MiB", f"{usage.seconds:.0f} s"

    figures = ("picture", "tile", "whole", "time", "in tiles", "time ", "PSNR")
    return markdown_tables.table(
        figures,
        [
            (
                str(row.side),
                str(row.tile),
                *cells(None if row.whole is not None and row.whole.killed else row.whole),
                *cells(row.tiled),
                "" if row.psnr is None else f"{row.psnr:.1f} dB",
            )
            for row in rows
        ],
        right=figures,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("sides", nargs="*", type=int, default=[256, 512, 1024], help="of pictures, in pixels")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--no-limits", action="store_true", help="measure without hard limits")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="latentc-tiles-") as folder:
        try:
            for side in args.sides:
                rows.append(
                    measure(args.artifact, side, args.tile, args.compute, Path(folder), not args.no_limits)
                )
        except LatentcError as error:
            sys.exit(f"Error: {error}")
        finally:
            print(table(rows))
    sys.exit(0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    main()
