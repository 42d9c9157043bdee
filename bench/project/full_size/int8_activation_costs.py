"""`python -m bench.project.full_size.int8_activation_costs`: int8 activations at the size of Stable Diffusion 1.5.

Compiles the model of random weights for OpenVINO twice, in bf16 and with the UNet in int8 with int8 activations (its
calibration on one prompt runs all timesteps), each in a process of its own under a hard memory limit, and then takes
steps with the two in turns at 512x512. Exit status 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError
from bench.environment import environment
from bench.project.full_size.compile_costs import Claim, Figure, Runs, fits, table

if TYPE_CHECKING:
    from runtimes.pipeline import Pipeline

LIMIT = 6144
"""MiB that the compile is run under; NNCF's post-training quantization of this UNet takes 12.9 GB."""
GAIN = 1.3
"""Steps of the one in bf16 are at least this much longer."""
PROMPT = "a photo of a lighthouse on a cliff at dawn"


def compiled(runs: Runs, quantize: str) -> Figure:
    """What compiling an artifact for 512x512 took; it stays in the work folder."""
    calibration = runs.work / "calibration.txt"
    calibration.write_text(PROMPT + "\n", encoding="utf-8")
    arguments = ["--target", "openvino", "--precision", "bf16", "--check", "none", "--size", "512", "--force"]
    if quantize:
        arguments += ["--quantize", quantize, "--calibration", str(calibration)]
    out = runs.work / f"sd15-{'int8-activations' if quantize else 'bf16'}"
    subject = f"latentc: sd15 to OpenVINO {'W8A8' if quantize else 'bf16'}"
    return runs.artifact(subject, "sd15", out, arguments, LIMIT)


def step_times(roots: list[Path], rounds: int) -> list[list[float]]:
    """Seconds of each step, for each artifact; all are open and take turns. First steps are left out."""
    from runtimes.pipeline import load

    pipelines: list[Pipeline] = []
    try:
        for root in roots:
            pipelines.append(load(root, cache=False))
            pipelines[-1].generate(PROMPT, seed=0, steps=1)
        seconds: list[list[float]] = [[] for _ in roots]
        for _ in range(rounds):
            for pipeline, times in zip(pipelines, seconds, strict=True):
                times += pipeline.generate(PROMPT, seed=0, steps=3, output_type="latent").timings.steps[1:]
        return seconds
    finally:
        for pipeline in pipelines:
            pipeline.close()


def faster(roots: list[Path], rounds: int) -> Claim:
    """What a step in bf16 takes beside one in W8A8; not measured where a compile did not get through."""
    subject, required = "SD 1.5, 512x512, a step in bf16 beside one in W8A8", f"at least {GAIN} times as long"
    if not all(root.exists() for root in roots):
        return Claim(subject, required, "not measured", None)
    plain, quantized = step_times(roots, rounds)
    ratios = [a / b for a, b in zip(plain, quantized, strict=True)]
    gain = statistics.median(ratios)
    text = f"{gain:.2f} ({min(ratios):.2f} to {max(ratios):.2f}); {statistics.median(plain):.2f} s and "
    return Claim(subject, required, text + f"{statistics.median(quantized):.2f} s", gain >= GAIN)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.project.full_size.int8_activation_costs", description=__doc__
    )
    parser.add_argument(
        "--work", type=Path, help="where models and artifacts are kept (default: a temporary folder)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of two steps each (default: 5)")
    parser.add_argument("--no-limits", action="store_true", help="no hard limits: works without root")
    parser.add_argument(
        "--reuse", action="store_true", help="take steps with the artifacts that are in --work"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="latentc-full-size-") as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        runs = Runs(work.resolve(), not args.no_limits, lambda line: print(line, file=sys.stderr, flush=True))
        claims: list[Claim] = []
        try:
            roots = [runs.work / "sd15-bf16", runs.work / "sd15-int8-activations"]
            if not args.reuse:
                figures = [compiled(runs, quantize) for quantize in ("", "unet=int8-activations")]
                claims.append(fits("SD 1.5 to OpenVINO, UNet W8A8", figures[1:]))
            claims.append(faster(roots, args.rounds))
        except LatentcError as error:
            sys.exit(f"Error: {error}")
    print(table(runs.figures, claims))
    machine = environment(False)
    print(f"\n{machine.processor}, {machine.cores} cores; instructions: {instructions()}")
    sys.exit(1 if any(claim.holds is False for claim in claims) else 0)


def instructions() -> str:
    """What this processor has for low precision, as OpenVINO sees it: "FP32, INT8" has no bf16 of its own."""
    import openvino

    return ", ".join(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


if __name__ == "__main__":
    main()
