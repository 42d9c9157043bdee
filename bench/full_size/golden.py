"""`python -m bench.full_size.golden [NAME ...]`: the graphs of full-size public models, held to their golden files.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError
from bench.full_size.published import PUBLISHED
from runtimes.quiet import quiet_libraries

if TYPE_CHECKING:
    from compiler.snapshot.diff import Change
    from compiler.snapshot.take import Options

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden"
"""Where the golden files are: in the source tree, which is what they watch over."""


# What exporting one of them takes at its peak, in bytes.
_MEMORY = 1536 * 2**20


@dataclass(frozen=True)
class Golden:
    """What is watched of one architecture.

    Attributes:
        components: those that no other entry has. Text encoders and autoencoders are shared by many models.
        why: what this entry adds to the others.
        sides: pixels of a side, from and to, where graphs that hold for a range are watched; None for the
            model's own size.
    """

    components: tuple[str, ...]
    why: str
    sides: tuple[int, int] | None = None

    def options(self) -> Options:
        """What its snapshot is taken with."""
        from artifacts.manifest import DimRange
        from compiler.capture.capture import SizeRange
        from compiler.snapshot.take import Options

        side = None if self.sides is None else DimRange(min=self.sides[0], max=self.sides[1])
        return Options(components=self.components, size=None if side is None else SizeRange(side, side))


GOLDEN: Mapping[str, Golden] = {
    "sd15": Golden(
        ("text_encoder", "unet", "vae"), "CLIP-L; the first UNet; the autoencoder of SD and SDXL", (256, 512)
    ),
    "sd21": Golden(("text_encoder", "unet"), "OpenCLIP-H; linear projections"),
    "sdxl": Golden(("text_encoder_2", "unet"), "CLIP-bigG; size conditioning", (512, 1024)),
    "sdxl-refiner": Golden(("unet",), "four levels of XL"),
    "sdxl-controlnet": Golden(("controlnet", "unet"), "residuals as inputs and outputs"),
    "sd35-medium": Golden(
        ("transformer", "vae"), "dual attention; the autoencoder of 16 channels", (512, 1024)
    ),
    "sd35-large": Golden(("transformer",), "38 joint blocks"),
    "flux": Golden(
        ("text_encoder_2", "transformer"), "T5-XXL at 512 tokens; guidance embedding", (512, 1024)
    ),
    "flux-schnell": Golden(("transformer",), "no guidance embedding"),
    "pixart-sigma": Golden(("transformer",), "cross-attention with a mask; positions computed from the size"),
    "sana": Golden(("text_encoder", "transformer", "vae"), "Gemma 2; linear attention; a deep autoencoder"),
    "kandinsky22-prior": Golden(("image_encoder", "prior"), "CLIP's vision; a prior of embeddings"),
    "kandinsky22": Golden(("unet", "movq"), "added key and value projections; spatial norms"),
    "cascade-prior": Golden(("prior",), "stage C"),
    "cascade-decoder": Golden(("decoder", "vqgan"), "stages B and A"),
    "auraflow": Golden(("text_encoder", "transformer"), "Pile-T5; joint blocks, then single ones"),
    "lumina2": Golden(("transformer",), "grouped queries; complex rotary embeddings"),
    "qwen-image": Golden(
        ("text_encoder", "transformer", "vae"), "Qwen 2.5 VL; 60 blocks; a causal autoencoder"
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
    from bench.full_size.make import make_configs
    from compiler.snapshot import check as checking
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


def _told(job: tuple[str, bool]) -> tuple[str, bool]:
    """What to print of one entry, and whether it is a failure. Versions of the tools are none."""
    from compiler.snapshot.diff import allowed
    from compiler.snapshot.report import as_text

    name, update = job
    start = time.perf_counter()
    try:
        changes = check(name, update)
    except LatentcError as error:
        return f"{name}: Error: {error}", True
    left = allowed(changes, ["metadata"])
    text = as_text(left, len(changes) - len(left), name)
    first, newline, rest = text.partition("\n")
    return f"{first} [{time.perf_counter() - start:.0f} s]{newline}{rest}", bool(left) and not update


def processes() -> int:
    """How many models to export at a time: one for each core that has the memory for it."""
    from compiler.check import memory_available

    return max(1, min(os.cpu_count() or 1, memory_available() // _MEMORY))


# What jobs need, half a minute of it.
_IMPORTS = ("compiler.snapshot.take", "bench.full_size.classes")


def _context() -> multiprocessing.context.BaseContext:
    """Processes that begin with `_IMPORTS` done once, where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTS))
    return context


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.full_size.golden", description=__doc__)
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
    # The longest first, so that no process ends long before the others: long texts are large graphs.
    sizes = {file.stem: file.stat().st_size for file in FOLDER.glob("*.graph")}
    names.sort(key=lambda name: -sizes.get(name, 0))
    jobs = [(name, args.update) for name in names]
    failed = False
    # A process for each: what libraries keep of one model is gone before the next.
    with _context().Pool(args.jobs or processes(), maxtasksperchild=1) as pool:
        for text, wrong in pool.imap_unordered(_told, jobs):
            print(text, flush=True)
            failed |= wrong
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
