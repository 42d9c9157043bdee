"""`python -m bench.project.interop`: our artifacts in other projects' loaders, picture beside picture.

Compiles a model (`shapes` by default) for OpenVINO and ONNX Runtime in fp32, draws one prompt with it, opens
the same folders with optimum-intel's OVStableDiffusionPipeline and optimum-onnx's ORTStableDiffusionPipeline,
each in a virtual environment of its own, draws the same prompt from the same seed, and prints the PSNR to
ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.errors import LatentcError
from bench.project import peers

PROMPT = "a large red circle at the left on a blue background"
MINIMUM = 60.0
"""dB. Both sides run the same graph in fp32 with the same noise; only the loops around it differ."""


@dataclass(frozen=True)
class Loader:
    """A class of another project that opens our folders.

    Attributes:
        name: the class; `peers/draw.py` knows it.
        peer: the environment it runs in.
        target: what the artifact must be compiled for.
    """

    name: str
    peer: str
    target: str


LOADERS = (
    Loader("OVStableDiffusionPipeline", "optimum-intel", "openvino"),
    Loader("ORTStableDiffusionPipeline", "optimum-onnx", "onnxruntime"),
)


@dataclass(frozen=True)
class Outcome:
    """`psnr` in dB of the peer's picture to ours; None when it failed, with its words in `failure`."""

    loader: str
    target: str
    psnr: float | None
    failure: str = ""

    @property
    def passed(self) -> bool:
        return self.psnr is not None and self.psnr >= MINIMUM


def compare(model: str, request: Mapping[str, Any], work: Path, names: Sequence[str]) -> list[Outcome]:
    """Compiles `model` into `work` once for each target, and draws with every loader of `names`."""
    from artifacts.manifest import DimRange
    from compiler.build import compile
    from compiler.capture.declared_sizes import SizeRange
    from compiler.compile_request import CompileRequest
    from runtimes import load

    # These loaders reshape every graph to any size and batch when they open it: it must be good for that.
    width, height = (DimRange(min=request[side], max=2 * request[side]) for side in ("width", "height"))

    ours: dict[str, np.ndarray] = {}
    outcomes = []
    for loader in LOADERS:
        if loader.name not in names:
            continue
        artifact = work / loader.target
        if loader.target not in ours:
            compile(
                CompileRequest(
                    model=model,
                    out=artifact,
                    target=loader.target,
                    precision="fp32",
                    size=SizeRange(width=width, height=height),
                    batch=DimRange(min=1, max=2),
                    force=True,
                )
            )
            with load(artifact, compute="fp32") as pipeline:  # as theirs are told to
                ours[loader.target] = _draw(pipeline, request)
        outcomes.append(_outcome(loader, artifact, request, ours[loader.target], work))
    return outcomes


def _draw(pipeline: Any, request: Mapping[str, Any]) -> np.ndarray:
    result = pipeline.generate(
        request["prompt"],
        steps=request["steps"],
        guidance=request["guidance"],
        seed=request["seed"],
        size=(request["width"], request["height"]),
    )
    if result.flaws:
        raise LatentcError(f"nothing can be compared: {result.flaws[0].message}", result.flaws[0].hint)
    return np.asarray(result.images[0].convert("RGB"), dtype=np.float32) / 255


def _outcome(
    loader: Loader, artifact: Path, request: Mapping[str, Any], ours: np.ndarray, work: Path
) -> Outcome:
    picture = work / f"{loader.name}.npy"
    tell = _stderr
    try:
        peers.run(
            loader.peer,
            str(peers.HERE / "draw.py"),
            loader.name,
            str(artifact),
            str(picture),
            json.dumps(dict(request)),
            tell=tell,
        )
    except LatentcError as error:
        return Outcome(loader.name, loader.target, None, str(error))
    theirs = np.load(picture, allow_pickle=False)
    from compiler.evidence.metrics import psnr

    # Ours went through 8 bits a channel on its way to a picture: so does theirs.
    return Outcome(loader.name, loader.target, psnr(np.round(theirs * 255) / 255, ours))


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.project.interop", description=__doc__)
    parser.add_argument("--model", default="shapes", help="a Stable Diffusion model (default: shapes)")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument(
        "--loader", action="append", choices=[loader.name for loader in LOADERS], help="default: all"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    request = {
        "prompt": args.prompt,
        "steps": args.steps,
        "guidance": args.guidance,
        "seed": args.seed,
        "width": args.size[0],
        "height": args.size[1],
    }
    names = args.loader or [loader.name for loader in LOADERS]
    with tempfile.TemporaryDirectory(prefix="latentc-interop-") as work:
        try:
            outcomes = compare(args.model, request, Path(work), names)
        except LatentcError as error:
            sys.exit(f"Error: {error}")
    if args.json:
        print(json.dumps([{**asdict(outcome), "passed": outcome.passed} for outcome in outcomes], indent=2))
    else:
        print(f"{'loader':28}{'target':14}{'PSNR to ours':>14}")
        for outcome in outcomes:
            value = "failed" if outcome.psnr is None else f"{outcome.psnr:.1f} dB"
            print(f"{outcome.loader:28}{outcome.target:14}{value:>14}")
        for outcome in outcomes:
            if outcome.failure:
                print(f"\n{outcome.loader}: {outcome.failure}", file=sys.stderr)
    sys.exit(0 if all(outcome.passed for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
