"""`python -m bench.project.interop`: our artifacts in other projects' loaders, picture beside picture.

Compiles a model (`shapes` by default) for OpenVINO and ONNX Runtime in fp32, draws one prompt with it, opens
the same folders with optimum-intel's OVDiffusionPipeline, OpenVINO GenAI's Text2ImagePipeline and optimum-onnx's
ORTDiffusionPipeline, each in a virtual environment of its own, draws the same prompt from the same seed, and prints
the PSNR to ours. A loop that is not diffusers' own (OpenVINO GenAI's shift of FLUX's timesteps) draws another picture
from any artifact: then the peer's own export of the model is drawn with as well, and ours is held to that.
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
from bench.project.full_size.make import make
from bench.project.full_size.published import TINY
from compiler.evidence.metrics import psnr

PROMPT = "a large red circle at the left on a blue background"
MINIMUM = 60.0
"""dB. Both sides run the same graph in fp32 with the same noise; only the loops around it differ."""
MINIMUM_CUT = 45.0
"""dB, for a loader that drops the fraction of a pixel's level where diffusers rounds it: 51 dB at best."""


@dataclass(frozen=True)
class Loader:
    """A class of another project that opens our folders.

    Attributes:
        name: the class; `peers/draw.py` knows it.
        peer: the environment it runs in.
        target: what the artifact must be compiled for.
        minimum: dB to our own picture.
        exporter: the environment whose `optimum-cli export openvino` makes what this loader opens otherwise; empty
            where its loop is diffusers' own.
    """

    name: str
    peer: str
    target: str
    minimum: float = MINIMUM
    exporter: str = ""


LOADERS = (
    Loader("OVDiffusionPipeline", "optimum-intel", "openvino"),
    Loader("Text2ImagePipeline", "openvino-genai", "openvino", MINIMUM_CUT, exporter="optimum-intel"),
    Loader("ORTDiffusionPipeline", "optimum-onnx", "onnxruntime"),
)


@dataclass(frozen=True)
class Outcome:
    """What one loader drew.

    Attributes:
        loader, target: as in `Loader`.
        psnr: in dB, of the peer's picture from our artifact to the reference; None when it failed.
        failure: its words then.
        minimum: dB that are enough.
        reference: whose picture it is compared with: "ours", or "its export's".
        psnr_to_ours: where the reference is another one.
    """

    loader: str
    target: str
    psnr: float | None
    failure: str = ""
    minimum: float = MINIMUM
    reference: str = "ours"
    psnr_to_ours: float | None = None

    @property
    def passed(self) -> bool:
        return self.psnr is not None and self.psnr >= self.minimum


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
        outcomes.append(_outcome(loader, model, artifact, request, ours[loader.target], work))
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
    loader: Loader, model: str, artifact: Path, request: Mapping[str, Any], ours: np.ndarray, work: Path
) -> Outcome:
    try:
        theirs = _drawn_by(loader, artifact, request, work)
        to_ours = psnr(theirs, ours)
        if to_ours >= loader.minimum or not loader.exporter:
            return Outcome(loader.name, loader.target, to_ours, minimum=loader.minimum)
        exported = work / f"{loader.exporter}-export"
        if not exported.exists():
            _export(loader.exporter, model, exported)
        reference = _drawn_by(loader, exported, request, work)
    except LatentcError as error:
        return Outcome(loader.name, loader.target, None, str(error), loader.minimum)
    return Outcome(
        loader.name,
        loader.target,
        psnr(theirs, reference),
        minimum=loader.minimum,
        reference="its export's",
        psnr_to_ours=to_ours,
    )


def _drawn_by(loader: Loader, folder: Path, request: Mapping[str, Any], work: Path) -> np.ndarray:
    """The peer's picture from 0 to 1, in 256 levels as a file has it."""
    picture = work / f"{loader.name}.npy"
    peers.run(
        loader.peer,
        str(peers.HERE / "draw.py"),
        loader.name,
        str(folder),
        str(picture),
        json.dumps(dict(request)),
        tell=_stderr,
    )
    drawn: np.ndarray = np.load(picture, allow_pickle=False)
    return np.asarray(np.round(drawn * 255) / 255)


def _export(exporter: str, model: str, out: Path) -> None:
    from compiler.source import open_model

    # The task cannot be told from a folder.
    options = ("--task", "text-to-image", "--weight-format", "fp32")
    command = ("-m", "optimum.commands.optimum_cli", "export", "openvino", *options)
    peers.run(
        exporter,
        *(*command, "--model", str(open_model(model).root.absolute())),
        str(out),
        tell=_stderr,
    )


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.project.interop", description=__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", default="shapes", help="a text-to-image model (default: shapes)")
    source.add_argument("--tiny", choices=TINY, help="a tiny model of this kind, with random weights")
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
            model = args.model
            if args.tiny is not None:
                model = str(Path(work) / "model")
                make(TINY[args.tiny], Path(model), dtype="fp32")
            outcomes = compare(model, request, Path(work), names)
        except LatentcError as error:
            sys.exit(f"Error: {error}")
    if args.json:
        print(json.dumps([{**asdict(outcome), "passed": outcome.passed} for outcome in outcomes], indent=2))
    else:
        print(f"{'loader':24}{'target':14}{'PSNR':>10}  to the picture of")
        for outcome in outcomes:
            value = "failed" if outcome.psnr is None else f"{outcome.psnr:.1f} dB"
            other = "" if outcome.psnr_to_ours is None else f" (to ours: {outcome.psnr_to_ours:.1f} dB)"
            print(f"{outcome.loader:24}{outcome.target:14}{value:>10}  {outcome.reference}{other}")
        for outcome in outcomes:
            if outcome.failure:
                print(f"\n{outcome.loader}: {outcome.failure}", file=sys.stderr)
    sys.exit(0 if all(outcome.passed for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
