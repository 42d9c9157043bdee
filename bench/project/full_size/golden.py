"""`python -m bench.project.full_size.golden [NAME ...]`: full-size public models, held to their golden files.

The golden files are `tests/golden/NAME.graph`. Each is exported from published configs, without weights. Prints what
changed and exits 1; `--update` accepts it, and writes the file of a name that has none yet.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts import memory
from artifacts.errors import LatentcError
from bench.project.full_size.published import PUBLISHED
from runtimes.quiet import quiet_libraries

if TYPE_CHECKING:
    from compiler.snapshot.diff import Change
    from compiler.snapshot.take import SnapshotOptions

FOLDER = Path(__file__).resolve().parents[3] / "tests" / "golden"
"""Where the golden files are: in the source tree, which is what they watch over."""

LIBRARIES = 700
"""What the libraries take that all models share, in MiB."""


@dataclass(frozen=True)
class Golden:
    """What is watched of one architecture.

    Attributes:
        components: those that no other entry has. Text encoders and autoencoders are shared by many models.
        why: what this entry adds to the others.
        peak: MiB that exporting it takes beside the libraries, as this command tells; for running several at a time.
        sides: pixels of a side, from and to, where graphs that hold for a range are watched; None for the
            model's own size.
        in_tests: whether `make test` exports it, too: these have every pattern and rewrite that any model has.
    """

    components: tuple[str, ...]
    why: str
    peak: int
    sides: tuple[int, int] | None = None
    in_tests: bool = False

    def options(self) -> SnapshotOptions:
        """What its snapshot is taken with."""
        from artifacts.manifest import DimRange
        from compiler.capture.declared_sizes import SizeRange
        from compiler.snapshot.take import SnapshotOptions

        side = None if self.sides is None else DimRange(min=self.sides[0], max=self.sides[1])
        return SnapshotOptions(
            components=self.components, size=None if side is None else SizeRange(side, side)
        )


GOLDEN: Mapping[str, Golden] = {
    "sd15": Golden(
        ("text_encoder", "unet", "vae"),
        "CLIP-L; the first UNet; the autoencoder of SD and SDXL",
        200,
        (256, 512),
        in_tests=True,
    ),
    "sd21": Golden(("text_encoder", "unet"), "OpenCLIP-H; linear projections", 300),
    "sdxl": Golden(("text_encoder_2", "unet"), "CLIP-bigG; size conditioning", 300, (512, 1024)),
    "sdxl-refiner": Golden(("unet",), "four levels of XL", 400),
    "sdxl-controlnet": Golden(("controlnet", "unet"), "residuals as inputs and outputs", 1400, (512, 512)),
    "sd35-medium": Golden(
        ("transformer", "vae"),
        "dual attention; the autoencoder of 16 channels",
        950,
        (512, 1024),
        in_tests=True,
    ),
    "sd35-large": Golden(("transformer",), "38 joint blocks", 900),
    "flux": Golden(
        ("text_encoder_2", "transformer"),
        "T5-XXL at 512 tokens; guidance embedding",
        500,
        (512, 1024),
        in_tests=True,
    ),
    "flux-schnell": Golden(("transformer",), "no guidance embedding", 550),
    "pixart-sigma": Golden(
        ("transformer",),
        "cross-attention with a mask; positions computed from the size",
        650,
        in_tests=True,
    ),
    "sana": Golden(
        ("text_encoder", "transformer", "vae"),
        "Gemma 2; linear attention; a deep autoencoder",
        500,
        in_tests=True,
    ),
    "kandinsky22-prior": Golden(("image_encoder", "prior"), "CLIP's vision; a prior of embeddings", 200),
    "kandinsky22": Golden(
        ("unet", "movq"), "added key and value projections; spatial norms", 250, in_tests=True
    ),
    "cascade-prior": Golden(("prior",), "stage C", 450),
    "cascade-decoder": Golden(("decoder", "vqgan"), "stages B and A", 500),
    "auraflow": Golden(("text_encoder", "transformer"), "Pile-T5; joint blocks, then single ones", 400),
    "lumina2": Golden(("transformer",), "grouped queries; complex rotary embeddings", 800, in_tests=True),
    "qwen-image": Golden(
        ("text_encoder", "transformer", "vae"), "Qwen 2.5 VL; 60 blocks; a causal autoencoder", 1400
    ),
}


def check(name: str, update: bool = False, folder: Path = FOLDER) -> tuple[Change, ...]:
    """What changed of one entry of `GOLDEN`.

    Args:
        update: write the file when anything changed, or when it is not there.
        folder: where the golden files are.

    Raises:
        LatentcError: there is no such entry or file, or the model cannot be exported any more.
    """
    from bench.project.full_size.make import make_configs
    from compiler.snapshot import golden_snapshot as checking
    from compiler.snapshot.take import take

    if name not in GOLDEN:
        raise LatentcError(f"there is no golden model '{name}' (there are: {', '.join(GOLDEN)}).")
    file = folder / f"{name}.graph"
    with tempfile.TemporaryDirectory(prefix="latentc-golden-") as temporary:
        model = Path(temporary) / name
        make_configs(PUBLISHED[name], model)
        if update and not file.exists():
            folder.mkdir(exist_ok=True)
            checking.write(file, take(str(model), GOLDEN[name].options()))
            return ()
        return checking.check(str(model), file, update=update)


def _peak(name: str) -> int:
    return GOLDEN[name].peak if name in GOLDEN else 0


def _progress_line(name: str, update: bool) -> tuple[str, bool]:
    """What to print of one entry, and whether it is a failure. Versions of the tools are none."""
    from compiler.snapshot.diff import allowed
    from compiler.snapshot.report import as_text

    start, before = time.perf_counter(), memory.high_water(os.getpid())
    try:
        changes = check(name, update)
    except LatentcError as error:
        return f"{name}: Error: {error}", True
    left = allowed(changes, ["metadata"])
    text = as_text(left, len(changes) - len(left), name)
    first, newline, rest = text.partition("\n")
    after = memory.high_water(os.getpid())
    took = f"{time.perf_counter() - start:.0f} s"
    if before is not None and after is not None:
        took += f", {(after - before) / 2**20:,.0f} MiB"
    return f"{first} [{took}]{newline}{rest}", bool(left) and not update


def _answer(name: str, update: bool, pipe: Connection) -> None:
    """The whole of a process: sends what `_progress_line` returned, or what a bug raised."""
    try:
        pipe.send(_progress_line(name, update))
    except Exception:
        pipe.send((f"{name}: {traceback.format_exc()}", True))


def run(names: Sequence[str], update: bool, room: int, processes: int) -> Iterator[tuple[str, bool]]:
    """What `_progress_line` says of each, as they end.

    Each has a process of its own, so that what libraries keep of one model is gone before the next. Two run at a time
    where there is a core and, by `Golden.peak`, memory for both.

    Args:
        names: in the order in which to begin; what does not fit beside what runs lets others go first.
        room: MiB for all of them, libraries included.
        processes: at most so many at a time.
    """
    context = _context()
    waiting = list(names)
    running: dict[Connection, tuple[str, Any]] = {}
    while waiting or running:
        left = room - LIBRARIES - sum(_peak(name) for name, _ in running.values())
        fits = next((n for n in waiting if _peak(n) <= left or not running), None)
        if fits is not None and len(running) < processes:
            waiting.remove(fits)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_answer, args=(fits, update, theirs), daemon=True)
            process.start()
            theirs.close()
            running[ours] = fits, process
            continue
        ready = wait(list(running))
        for pipe in [pipe for pipe in running if pipe in ready]:
            name, process = running.pop(pipe)
            try:
                yield pipe.recv()
            except EOFError:
                process.join()
                yield f"{name}: its process ended with status {process.exitcode}.", True
            process.join()


# What jobs need, half a minute of it.
_IMPORTS = ("compiler.snapshot.take", "bench.project.full_size.warm_imports")


def _context() -> multiprocessing.context.SpawnContext | multiprocessing.context.ForkServerContext:
    """Processes that begin with `_IMPORTS` done once, where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTS))
    return context


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.project.full_size.golden", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of: {', '.join(GOLDEN)} (default: those with a file)"
    )
    parser.add_argument("--update", action="store_true", help="accept what changed")
    parser.add_argument(
        "--jobs", type=int, default=0, help="models at a time (default: one a core, as memory allows)"
    )
    args = parser.parse_args(arguments)
    quiet_libraries()
    names = args.names or [name for name in GOLDEN if (FOLDER / f"{name}.graph").exists()]
    # The largest first, so that no process ends long before the others.
    names = sorted(names, key=_peak, reverse=True)
    failed = False
    for text, wrong in run(names, args.update, memory.available() // 2**20, args.jobs or os.cpu_count() or 1):
        print(text, flush=True)
        failed |= wrong
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
