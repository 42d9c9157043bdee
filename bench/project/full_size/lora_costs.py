"""`python -m bench.project.full_size.lora_costs`: LoRAs at Stable Diffusion 1.5's size, merged and switched.

Compiles the model of random weights for OpenVINO without and with a LoRA of rank 32 on all projections, each in a
process of its own under a hard memory limit; then switches that LoRA in an adaptable artifact. Exit status 1 when a
claim does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from artifacts.errors import LatentcError
from artifacts.manifest import Adapter
from artifacts.pinned import Pinned
from artifacts.progress import silent
from artifacts.safetensors_header import read_header
from artifacts.verification import open_artifact
from bench.environment import environment
from bench.project.full_size.compile_costs import Claim, Figure, Runs, table

LIMIT = 1536
"""MiB that each compile is run under."""
MORE = 1.1
"""A compile with the LoRA takes at most this many times the time and memory of one without."""
SECONDS = 5.0
"""Switching takes less."""
RANK = 32
PROJECTIONS = {"unet": ("attentions",), "text_encoder": ("self_attn", "mlp")}
"""Component -> what the names of modules with projections contain."""


def write_lora(model: Path, file: Path) -> int:
    """Writes a LoRA in fp16 for every projection of a model folder's matrices.

    Returns:
        The number of projections.
    """
    import torch
    from safetensors.torch import save_file

    noise = torch.Generator().manual_seed(0)
    state = {}
    for component, names in PROJECTIONS.items():
        for weights in sorted((model / component).glob("*.safetensors")):
            for entry in read_header(weights):
                if len(entry.shape) != 2 or not any(name in entry.key for name in names):
                    continue
                rows, inner = entry.shape
                stem = f"{component}.{entry.key.removesuffix('.weight')}"
                for part, shape in (("lora_A", (RANK, inner)), ("lora_B", (rows, RANK))):
                    state[f"{stem}.{part}.weight"] = (torch.randn(shape, generator=noise) * 0.02).half()
    save_file(state, file)
    return len(state) // 2


def costs(plain: Sequence[Figure], merged: Sequence[Figure]) -> list[Claim]:
    """What the LoRA adds to a compile: processor time, which a busy machine does not stretch, and memory.

    Args:
        plain, merged: compiles without and with it, which ran in turn.
    """
    required = f"at most {MORE} times"
    ended = all(figure.status == 0 for figure in (*plain, *merged))
    claims = []
    for resource, before, after in (
        ("processor time", [figure.cpu for figure in plain], [figure.cpu for figure in merged]),
        ("memory of all processes", [figure.group for figure in plain], [figure.group for figure in merged]),
    ):
        name = f"SD 1.5 compiled with a LoRA, {resource}"
        ratios = [more / less for less, more in zip(before, after, strict=True) if less and more]
        if not ended or len(ratios) < len(plain):
            claims.append(Claim(name, required, "not measured", None))
            continue
        ratio = statistics.median(ratios)
        text = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        claims.append(Claim(name, required, text, ratio <= MORE))
    return claims


def switching(root: Path, lora: Path, rounds: int) -> Claim:
    """How long it takes until an artifact's graphs are open with a LoRA at another weight."""
    from compiler.adaptable.switch import AdaptableArtifact, switched
    from runtimes.graphs import Graphs

    subject, required = "SD 1.5, LoRA switched, graphs opened anew", f"under {SECONDS:g} s"
    if not root.exists():
        return Claim(subject, required, "not measured", None)
    artifact = open_artifact(root)
    files = Pinned(artifact)
    adaptable = AdaptableArtifact.of(files.root, artifact.manifest, files)
    graphs = Graphs(files.root, artifact.manifest, "auto", None, silent, files=files)
    wall, processor = [], []
    try:
        graphs.open_all()
        for number in range(rounds + 1):  # Libraries are imported in the first.
            started, spent = time.perf_counter(), time.process_time()
            replaced = switched(adaptable, (Adapter(file=str(lora), weight=0.5 + 0.1 * number),))
            graphs.replace(replaced.constants, replaced.adapters)
            if number:
                wall.append(time.perf_counter() - started)
                processor.append(time.process_time() - spent)
    finally:
        graphs.close()
    seconds = statistics.median(wall)
    text = f"{seconds:.1f} s ({min(wall):.1f} to {max(wall):.1f}; processor {statistics.median(processor):.1f} s)"
    return Claim(subject, required, text, seconds < SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.project.full_size.lora_costs", description=__doc__)
    parser.add_argument(
        "--work", type=Path, help="where models and artifacts are kept (default: a temporary folder)"
    )
    parser.add_argument(
        "--pairs", type=int, default=5, help="how often it is compiled with and without (default: 5)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often it is switched (default: 3)")
    parser.add_argument("--no-limits", action="store_true", help="no hard limits: works without root")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="latentc-full-size-") as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        runs = Runs(work.resolve(), not args.no_limits, lambda line: print(line, file=sys.stderr, flush=True))
        claims: list[Claim] = []
        try:
            lora = runs.work / "rank32.safetensors"
            count = write_lora(runs.model("sd15"), lora)
            arguments = ["--target", "openvino", "--check", "none", "--size", "512", "--force"]

            def compiled(suffix: str, name: str, more: Sequence[str]) -> Figure:
                subject = f"latentc: sd15 to OpenVINO fp16{suffix}"
                return runs.artifact(subject, "sd15", runs.work / name, [*arguments, *more], LIMIT)

            # The first reads files that are in no cache yet, and writes compiled modules of Python.
            compiled(", adaptable", "sd15-adaptable", ["--adaptable"])
            plain, merged = [], []
            for _ in range(args.pairs):
                plain.append(compiled("", "sd15-plain", []))
                merged.append(
                    compiled(f", LoRA on {count} projections", "sd15-merged", ["--lora", str(lora)])
                )
            claims += costs(plain, merged)
            claims.append(switching(runs.work / "sd15-adaptable", lora, args.rounds))
        except LatentcError as error:
            sys.exit(f"Error: {error}")
    print(table(runs.figures, claims))
    machine = environment(False)
    print(f"\n{machine.processor}, {machine.cores} cores")
    sys.exit(1 if any(claim.holds is False for claim in claims) else 0)


if __name__ == "__main__":
    main()
