"""`python -m bench.project.full_size.tensorrt_engines`: engines of Stable Diffusion 1.5's size, built without a GPU.

Compiles the model of random weights for one named GPU, with the weights in fp16 and in int4, each in a process of its
own under a hard memory limit, the builder's process included. Exit status 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from artifacts.errors import LatentcError
from artifacts.manifest_reading import read_manifest
from bench.environment import environment
from bench.project.full_size.compile_costs import Claim, Figure, Runs, fits, table

LIMIT = 6144
"""MiB that each is compiled under."""
SCHEMES = {"fp16": "", "int4": "int4"}
"""What is compiled, with its ``--quantize``."""


def compiled(runs: Runs, scheme: str, gpu: str) -> tuple[Figure, int]:
    """What compiling for 512x512 took, and the MiB of the engines. The artifact is removed."""
    out = runs.work / f"sd15-tensorrt-{scheme}"
    arguments = ["--target", "tensorrt", "--gpu", gpu, "--precision", "fp16", "--size", "512", "--force"]
    # No pictures: they would hold the whole model to compare with, and there is no GPU for the engines.
    arguments += ["--check", "none", *(["--quantize", SCHEMES[scheme]] if SCHEMES[scheme] else [])]
    try:
        figure = runs.artifact(f"latentc: sd15 to TensorRT {scheme}, {gpu}", "sd15", out, arguments, LIMIT)
        return figure, 0 if figure.status else _engines(out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _engines(artifact: Path) -> int:
    files = read_manifest(artifact).files
    return sum(file.size for file in files if file.path.endswith(".engine")) >> 20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.project.full_size.tensorrt_engines", description=__doc__
    )
    parser.add_argument("schemes", nargs="*", metavar="|".join(SCHEMES), help="of these only (default: all)")
    parser.add_argument("--work", type=Path, help="where the model is kept (default: a temporary folder)")
    parser.add_argument("--gpu", default="sm89", help="compute capabilities to build for (default: sm89)")
    parser.add_argument("--no-limits", action="store_true", help="no hard limits: works without root")
    args = parser.parse_args()
    if unknown := sorted(set(args.schemes) - SCHEMES.keys()):
        parser.error(f"there is no {', '.join(unknown)} (there are: {', '.join(SCHEMES)}).")
    claims: list[Claim] = []
    sizes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="latentc-full-size-") as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        runs = Runs(work.resolve(), not args.no_limits, lambda line: print(line, file=sys.stderr, flush=True))
        try:
            for scheme in args.schemes or SCHEMES:
                figure, size = compiled(runs, scheme, args.gpu)
                claims.append(fits(f"SD 1.5 to TensorRT {scheme} for {args.gpu}", [figure]))
                if size:
                    sizes.append(f"{scheme}: engines of {size:,} MiB; ")
        except LatentcError as error:
            sys.exit(f"Error: {error}")
    print(table(runs.figures, claims))
    machine = environment(False)
    print(f"\n{''.join(sizes)}{machine.processor}, {machine.cores} cores")
    sys.exit(1 if any(claim.holds is False for claim in claims) else 0)


if __name__ == "__main__":
    main()
