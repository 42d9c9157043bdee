"""Do the trained adapters do what they say, compiled? ``python -m bench.project.adapter_evidence``

Asks each trained adapter of `shapes` for held-out prompts: of PyTorch in fp32, without it and with it; of artifacts
that were compiled with it, for each target and in each kind of weights; and of artifacts in which it is switched on
when they run. Prints in what share of the pictures the adapter did what it says, and what share of the prompts' other
attributes is right. Exits with 1 where one of the two is more than two points below PyTorch's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError
from bench import markdown_tables
from bench.project.demo import PROMPTS, strip
from bench.project.reference.adapter_judge import OWN
from bench.project.reference.adapter_pictures import Settings, compile_with, draw, in_pytorch, opened
from bench.project.reference.adapter_scenes import Request, edge_map
from bench.project.reference.trained_adapters import ADAPTERS, TrainedAdapter

if TYPE_CHECKING:
    from PIL.Image import Image

    from compiler.lowering.compile_cache import CompileCache

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adapters.md"
SHEET = ROOT / "docs" / "images" / "adapters.png"
BEGIN, END = "<!-- Written by `python -m bench.project.adapter_evidence --update-docs`. -->", "<!-- End. -->"

TARGETS = ("openvino", "onnxruntime")
WEIGHTS = ("fp16", "int8", "int4")
WAYS = ("compiled", "switched")
"""How an artifact has an adapter: it is compiled into it, or switched on when it runs."""
COLUMNS = ("fp32", *WEIGHTS)
LOSS = 0.02
SHOWN = len(PROMPTS)
"""How many pictures of each row the sheet has."""

WITHOUT, WITH = "PyTorch without it", "PyTorch"
ON_SHEET = ((WITHOUT, "fp32"), (WITH, "fp32"), ("openvino", "int8"), ("onnxruntime", "int4"))


@dataclass(frozen=True, slots=True)
class Row:
    """What was drawn by one means.

    Attributes:
        adapter: its name.
        by: "PyTorch", a target's name, or that with "switched".
        weights: what they are stored in.
        own: share of pictures in which the adapter did what it says, 0 to 1.
        accuracy: mean share of the other attributes, 0 to 1.
    """

    adapter: str
    by: str
    weights: str
    own: float
    accuracy: float


class Drawings:
    """Rows and the first pictures of each, kept in a folder: what is there is not drawn again.

    A file's name tells the adapter's own bytes and all settings, but not the version of this program.
    """

    def __init__(self, folder: Path, prompts: int, settings: Settings) -> None:
        self.folder, self.prompts, self.settings = folder, prompts, settings
        self.rows: list[Row] = []
        self.pictures: dict[tuple[str, str, str], tuple[Image, ...]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        adapter: TrainedAdapter,
        by: str,
        weights: str,
        make: Callable[[Sequence[Request]], Sequence[Image]],
    ) -> None:
        """Draws, judges and keeps, unless that is done."""
        from PIL import Image

        if not adapter.path.exists():
            raise LatentcError(
                f"the adapter '{adapter.name}' is not trained: there is no {adapter.path}.",
                f"Train it: python -m bench.project.reference.train_adapters --adapter {adapter.name}",
            )
        file = self.folder / f"{adapter.name}-{by}-{weights}-{self._key(adapter)}.json".replace(" ", "-")
        if not file.exists():
            print(f"{adapter.name}: {by}, {weights}", file=sys.stderr, flush=True)
            requests = adapter.requests(self.prompts)
            pictures = make(requests)
            shares = adapter.shares(pictures, requests)
            own = shares.pop(OWN)
            for number, picture in enumerate(pictures[:SHOWN]):
                picture.save(file.with_suffix(f".{number}.png"))
            row = Row(adapter.name, by, weights, own, statistics.fmean(shares.values()))
            file.write_text(json.dumps(asdict(row)), encoding="utf-8")
        self.rows.append(Row(**json.loads(file.read_text(encoding="utf-8"))))
        kept = [file.with_suffix(f".{number}.png") for number in range(min(SHOWN, self.prompts))]
        self.pictures[adapter.name, by, weights] = tuple(Image.open(path).convert("RGB") for path in kept)

    def _key(self, adapter: TrainedAdapter) -> str:
        files = [adapter.path] if adapter.path.is_file() else sorted(adapter.path.iterdir())
        digest = hashlib.sha256(repr((self.prompts, self.settings)).encode())
        for path in files:
            digest.update(path.read_bytes())
        return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Artifacts:
    """What is compiled for one target in one kind of weights, in a folder.

    Each method takes an adapter and its requests, and returns the pictures.
    """

    folder: Path
    target: str
    weights: str
    settings: Settings
    compile_cache: CompileCache

    def compiled(self, adapter: TrainedAdapter, requests: Sequence[Request]) -> list[Image]:
        """With the adapter in the artifact."""
        out = self.folder / adapter.name
        root = compile_with(adapter, self.target, self.weights, out, self.compile_cache)
        with opened(root) as pipe:
            return draw(pipe, adapter, requests, self.settings)

    def switched(self, adapter: TrainedAdapter, requests: Sequence[Request]) -> list[Image]:
        """With the adapter switched on when it runs, in the artifact that takes each of them."""
        root = self.folder / "adaptable"
        if not root.exists():
            compile_with(None, self.target, self.weights, root, self.compile_cache)
        with opened(root, switched_on=adapter) as pipe:
            return draw(pipe, adapter, requests, self.settings)


def measure(
    drawings: Drawings,
    adapters: Sequence[TrainedAdapter],
    targets: Sequence[str],
    weights: Sequence[str],
    ways: Sequence[str] = WAYS,
) -> None:
    """Draws with every adapter in PyTorch, and in artifacts in each of `ways`."""
    from compiler.lowering.compile_cache import CompileCache

    settings = drawings.settings
    for adapter in adapters:
        for by, on in ((WITHOUT, False), (WITH, True)):
            in_torch = partial(in_pytorch, adapter, settings=settings, switched_on=on)
            drawings.add(adapter, by, "fp32", in_torch)
    compile_cache = CompileCache()
    for target, kind in product(targets, weights):
        with tempfile.TemporaryDirectory(prefix="latentc-adapters-") as name:
            artifacts = Artifacts(Path(name), target, kind, settings, compile_cache)
            for adapter in adapters:
                if "compiled" in ways:
                    drawings.add(adapter, target, kind, partial(artifacts.compiled, adapter))
                if "switched" in ways and adapter.kind != "controlnet":
                    drawings.add(adapter, f"{target}, switched", kind, partial(artifacts.switched, adapter))


def failures(rows: Sequence[Row]) -> list[str]:
    """Where an artifact falls short of PyTorch, one line each."""
    lines = []
    own = {row.adapter: row for row in rows if row.by == WITH}
    for row in rows:
        if row.by in (WITHOUT, WITH):
            continue
        reference = own[row.adapter]
        for measure, value, required in (
            ("does what it says", row.own, reference.own),
            ("attributes", row.accuracy, reference.accuracy),
        ):
            if not required - value <= LOSS + 1e-9:
                lines.append(
                    f"{row.adapter}, {row.by}, {row.weights}: {measure} {value:.1%}, PyTorch {required:.1%}"
                )
    return lines


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each adapter and means; cells are per cent of pictures / of attributes."""
    cells = {(row.adapter, row.by, row.weights): f"{row.own:.0%} / {row.accuracy:.1%}" for row in rows}
    lines = dict.fromkeys((row.adapter, row.by) for row in sorted(rows, key=_order))
    body = [(*line, *(cells.get((*line, column), "") for column in COLUMNS)) for line in lines]
    return markdown_tables.table(("adapter", "drawn by", *COLUMNS), body, COLUMNS)


def _order(row: Row) -> tuple[int, int]:
    names = [adapter.name for adapter in ADAPTERS]
    means = [WITHOUT, WITH, *(f"{target}{how}" for target in TARGETS for how in ("", ", switched"))]
    return names.index(row.adapter), means.index(row.by)


def sheet(drawings: Drawings, adapters: Sequence[TrainedAdapter]) -> Image:
    """The first prompts of each adapter by some of the means; of a ControlNet, the edges given, too."""
    return strip(dict(_strips(drawings, adapters)), scale=1)


def _strips(
    drawings: Drawings, adapters: Sequence[TrainedAdapter]
) -> Iterator[tuple[str, tuple[Image, ...]]]:
    for adapter in adapters:
        if adapter.kind == "controlnet":
            edges = tuple(edge_map(request.caption) for request in adapter.requests(SHOWN))
            yield f"{adapter.name}: what is given", edges
        for by, weights in ON_SHEET:
            pictures = drawings.pictures.get((adapter.name, by, weights))
            if pictures is not None:
                yield f"{adapter.name}: {by}, {weights}", pictures


def section(drawings: Drawings) -> str:
    """What stands in docs/adapters.md."""
    settings = drawings.settings
    return (
        f"{drawings.prompts} prompts each, {settings.steps} steps, guidance {settings.guidance:g}: in what share of"
        " the pictures the adapter did what it says / what share of the prompts' other attributes is right.\n\n"
        f"{table(drawings.rows)}"
    )


def main(args: Sequence[str] | None = None) -> int:
    """Runs the measurement; returns the exit status."""
    names, usual = [adapter.name for adapter in ADAPTERS], Settings()
    parser = argparse.ArgumentParser(prog="python -m bench.project.adapter_evidence", description=__doc__)
    parser.add_argument("--prompts", type=int, default=100, help="how many each is asked")
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--guidance", type=float, default=usual.guidance)
    parser.add_argument("--adapter", action="append", choices=names, help="of these only; may be repeated")
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--weights", action="append", choices=WEIGHTS)
    parser.add_argument("--way", action="append", choices=WAYS, help="of these only; may be repeated")
    parser.add_argument(
        "--work", type=Path, help="keeps what is drawn, and draws only what is not there (default: temporary)"
    )
    parser.add_argument("--update-docs", action="store_true", help="also write table and sheet into docs/")
    options = parser.parse_args(args)
    adapters = [adapter for adapter in ADAPTERS if adapter.name in (options.adapter or names)]
    with tempfile.TemporaryDirectory(prefix="latentc-adapters-") as temporary:
        work = options.work or Path(temporary)
        drawings = Drawings(work, options.prompts, Settings(options.steps, options.guidance))
        try:
            measure(
                drawings,
                adapters,
                options.target or TARGETS,
                options.weights or WEIGHTS,
                options.way or WAYS,
            )
        except LatentcError as error:
            print(f"Error: {error}", file=sys.stderr)
            return error.exit_code
        print(table(drawings.rows))
        if options.update_docs:
            sheet(drawings, adapters).save(SHEET, optimize=True)
            before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
            text = f"{before}{BEGIN}\n\n{section(drawings)}\n\n{END}{rest.partition(END)[2]}"
            PAGE.write_text(text, encoding="utf-8", newline="\n")
    failed = failures(drawings.rows)
    for line in failed:
        print(f"FAILS: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
