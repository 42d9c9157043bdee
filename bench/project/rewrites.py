"""`python -m bench.project.rewrites`: each exact rewrite and approximation by itself, on a UNet of Stable Diffusion
1.5's size.

The graph is exported from the published config; its weights are noise. Each variant is compared with the graph without
any rewrite: the two run in turn, A B B A, on the same inputs, and the ratio is of each pair. On a busy machine take
processor seconds of one thread: `LATENTC_THREADS=1 python -m bench.project.rewrites --clock processor`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError
from artifacts.precisions import PRECISIONS
from bench import markdown_tables
from bench.project.paired_times import CLOCKS, Call, Pairs
from bench.project.published_graph import exported, inputs_of
from compiler.passes.approximations import APPROXIMATIONS
from compiler.road import Road, apply, chosen
from targets import target_table as targets
from targets.target_contract import Rewrite

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from compiler.capture.infer import Method
    from runtimes.sessions.session_contract import Session

PAGE = Path(__file__).resolve().parents[2] / "docs" / "speed.md"
BEGIN, END = "<!-- Written by `python -m bench.project.rewrites --update-docs`. -->", "<!-- End. -->"
TARGETS = ("openvino", "onnxruntime")


@dataclass(frozen=True)
class Row:
    """One rewrite on one target.

    Attributes:
        default: "on", "off" or what decides.
        ratio: the median of the pairs' ratios to the graph without it; low, high: the extreme ones.
        error: of the outputs, ||a - b|| / ||b||; None where there are none to compare.
    """

    target: str
    name: str
    default: str
    ratio: float
    low: float
    high: float
    error: float | None
    note: str

    def __str__(self) -> str:
        error = "" if self.error is None else f"{self.error:.1e}"
        spread = f"{self.low:.3f} to {self.high:.3f}"
        ratio = f"{self.ratio:.3f}"
        return markdown_tables.row((self.target, self.name, ratio, spread, error, self.default, self.note))


HEAD = markdown_tables.head(
    ("target", "rewrite", "ratio", "pairs", "difference", "by default", ""), right=("ratio", "difference")
)


GUIDANCE = "guidance as two calls of one"


@dataclass(frozen=True)
class Bench:
    """One target's measurement.

    Attributes:
        inputs: of the step.
        fixed: inputs that stay for a whole picture; scheduled: those that the schedule tells ahead.
        only: the rows to measure; empty for all.
    """

    target: str
    precision: str
    graph: ir.Model
    method: Method
    inputs: Mapping[str, np.ndarray]
    fixed: frozenset[str]
    scheduled: frozenset[str]
    work: Path
    pairs: Pairs
    only: frozenset[str] = frozenset()

    def _wants(self, name: str) -> bool:
        return not self.only or name in self.only

    @property
    def compute(self) -> str:
        """The type that the graph is computed in: the target's default here."""
        from runtimes.compute import usual
        from runtimes.sessions import session_table as sessions

        return usual(sessions.get(self.target), "cpu", self.precision)

    def rows(self) -> Iterator[Row]:
        """Each rewrite by itself, all that are on together, and what else a step could do without."""
        on = chosen(targets.get(self.target), self.precision)
        with self._opened(self.graph.clone()) as session:
            base = self._call(session)
            for rewrite in targets.get(self.target).requirements.rewrites:
                yield from self._rewrite(rewrite.name, (rewrite,), base, _default(rewrite), rewrite.why)
            if len(on) > 1:
                yield from self._rewrite("all that are on", on, base, "on", "")
            yield from self._approximations(base)
            if self._wants(GUIDANCE):
                yield self._guidance(session, base)
            for label, inputs, note in (
                (
                    "what the prompt alone decides, once a picture",
                    self.fixed,
                    "keys and values of cross attention",
                ),
                ("what the timestep alone decides, ahead", self.scheduled, "time embeddings"),
            ):
                if inputs and self._wants(label):
                    yield from self._ahead(label, inputs, base, note)

    def _rewrite(
        self, name: str, rewrites: tuple[Rewrite, ...], base: Call, default: str, why: str
    ) -> Iterator[Row]:
        """Nothing where the graph has nothing to rewrite."""
        if not self._wants(name):
            return
        model, done = apply(self.graph.clone(), rewrites)
        if done:
            with self._opened(model) as session:
                yield self._row(name, default, base, self._call(session), why)

    def _approximations(self, base: Call) -> Iterator[Row]:
        """Each by itself; what it does to outputs is no rounding."""
        largest = {name: span.max for name, span in self.method.dims.items()}
        for approximation in APPROXIMATIONS.values():
            offered = targets.get(self.target).requirements.approximations
            if approximation.name not in offered or not self._wants(approximation.name):
                continue
            result = approximation.run(self.graph.clone(), largest)
            if result.modified:
                with self._opened(result.model) as session:
                    name, note = approximation.name, "an approximation"
                    yield self._row(name, "off", base, self._call(session), note)

    def _row(self, name: str, default: str, base: Call, other: Call, note: str) -> Row:
        ratios = self.pairs.ratios(base, other)
        difference = _difference(other(), base())
        middle = statistics.median(ratios)
        return Row(self.target, name, default, middle, min(ratios), max(ratios), difference, note)

    def _guidance(self, session: Session, base: Call) -> Row:
        """The two halves of the batch (with and without the prompt) one after the other."""
        import numpy as np

        with self._opened(self.graph.clone()) as alone:

            def halves() -> Mapping[str, np.ndarray]:
                outputs = [alone.run({n: _half(a, i) for n, a in self.inputs.items()}) for i in (0, 1)]
                return {n: np.concatenate([f[n] for f in outputs]) for n in outputs[0]}

            return self._row(GUIDANCE, "off", base, halves, "as one batch of two")

    def _ahead(self, label: str, names: frozenset[str], base: Call, note: str) -> Iterator[Row]:
        """The time of what depends on these inputs alone; its ratio is what would be left of a step without it."""
        part = ahead(self.graph, names)
        if part is None:
            return
        with self._opened(part) as session:
            call = self._call(session)
            left = [1 - ratio for ratio in self.pairs.ratios(base, call)]
        note = f"{note}; at most: the part is timed by itself"
        middle = statistics.median(left)
        yield Row(self.target, label, "off", middle, min(left), max(left), None, note)

    def _call(self, session: Session) -> Call:
        inputs = {name: self.inputs[name] for name in session.inputs}
        return lambda: session.run(inputs)

    @contextmanager
    def _opened(self, model: ir.Model) -> Iterator[Session]:
        from artifacts.progress import silent
        from compiler.passes import pass_table
        from runtimes.sessions import session_table as sessions
        from targets.target_contract import Context

        target = targets.get(self.target)
        model = Road.to(target, self.precision).without_rewrites().run(model).model
        folder = Path(tempfile.mkdtemp(dir=self.work))
        try:
            context = Context(silent, self.method.dims, pass_table.simplify)
            written = target.lower(model, target.options(), folder, context)
            factory = sessions.get(self.target)
            session = factory.open(folder / written.model_file, "cpu", self.compute, None)
            try:
                yield session
            finally:
                session.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _default(rewrite: Rewrite) -> str:
    if not rewrite.on or rewrite.on >= set(PRECISIONS):
        return "on" if rewrite.on else "off"
    return f"on in {', '.join(sorted(rewrite.on))}"


def ahead(model: ir.Model, names: frozenset[str]) -> ir.Model | None:
    """The part of a graph that depends on these inputs alone, its results as outputs; None where there is none."""
    import onnx_ir as ir

    inside: set[ir.Value] = {value for value in model.graph.inputs if value.name in names}
    free: set[ir.Value] = set(model.graph.initializers.values())
    for node in model.graph:
        operands = {value for value in node.inputs if value is not None}
        if node.op_type == "Shape" or operands <= free:
            free.update(node.outputs)
        elif operands <= inside | free:
            inside.update(node.outputs)
    ends = [
        value
        for node in model.graph
        for value in node.outputs
        if value in inside and any(use.node.outputs[0] not in inside for use in value.uses())
    ]
    if not ends:
        return None
    needed, pending = set(ends), list(ends)
    while pending:
        maker = pending.pop().producer()
        for value in () if maker is None else maker.inputs:
            if value is not None and value not in needed:
                needed.add(value)
                pending.append(value)
    inputs = [value for value in model.graph.inputs if value in needed]
    part = ir.convenience.extract(model.graph, inputs, ends)
    return ir.Model(part, ir_version=model.ir_version)


def _half(array: np.ndarray, index: int) -> np.ndarray:
    """Of a batch of two; what has no batch is whole."""
    return array[index : index + 1].copy() if array.ndim else array


def _difference(outputs: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    import numpy as np

    from compiler.evidence.metrics import relative_error

    return float(np.max([relative_error(outputs[name], wanted[name]) for name in wanted]))  # which keeps NaN


def page(rows: Sequence[Row], about: str) -> str:
    """The measured part of docs/speed.md."""
    from bench.environment import environment

    where = environment(evicted=False)
    versions = ", ".join(f"{n} {v}" for n, v in where.packages.items() if n in ("openvino", "onnxruntime"))
    lines = [
        f"{about}, {date.today().isoformat()}; {where.processor}, {where.cores} cores; {versions}.",
        "",
        HEAD,
        *map(str, rows),
    ]
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.project.rewrites", description=__doc__)
    parser.add_argument("--model", default="sd15", help="of bench/project/models (default: sd15)")
    parser.add_argument("--component", default="unet")
    parser.add_argument(
        "--config",
        type=json.loads,
        default={},
        metavar="JSON",
        help="what is to be different in its config, such as fewer blocks where time is short",
    )
    parser.add_argument("--size", type=int, default=512, help="pixels of a side")
    parser.add_argument("--precision", default="fp16", choices=PRECISIONS)
    parser.add_argument("--target", action="append", choices=TARGETS, help="of these only; may be repeated")
    parser.add_argument(
        "--row", action="append", default=[], help="of these only, by their names; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument(
        "--fixed", default="encoder_hidden_states", help="inputs that stay for a whole picture"
    )
    parser.add_argument("--known", default="timestep", help="inputs that the schedule tells ahead")
    parser.add_argument(
        "--work", type=Path, help="where graphs are written, two at a time (default: temporary)"
    )
    parser.add_argument("--update-docs", action="store_true", help="also write the table into docs/speed.md")
    options = parser.parse_args(args)

    from runtimes.sessions.common import threads

    rows: list[Row] = []
    computes: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="latentc-rewrites-", dir=options.work) as folder:
        try:
            graph, method = exported(
                options.model, options.component, options.size, Path(folder), options.config
            )
            print(HEAD, flush=True)
            for target in options.target or TARGETS:
                bench = Bench(
                    target,
                    options.precision,
                    graph,
                    method,
                    inputs_of(method),
                    frozenset(filter(None, options.fixed.split(","))),
                    frozenset(filter(None, options.known.split(","))),
                    Path(folder),
                    Pairs(CLOCKS[options.clock], options.rounds),
                    frozenset(options.row),
                )
                computes[target] = bench.compute
                for row in bench.rows():
                    rows.append(row)
                    print(row, flush=True)
        except (LatentcError, KeyError) as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
    if missing := sorted({*options.row} - {row.name for row in rows}):
        print(
            f"Error: the graph has no row {', '.join(missing)}; leave --row out to see all.", file=sys.stderr
        )
        return 1
    count = threads()
    changed = f" with `{json.dumps(options.config)}`" if options.config else ""
    about = (
        f"`{options.model}`'s {options.component}{changed}, {options.size}x{options.size}, "
        f"weights in {options.precision}, "
        f"computed in {', '.join(f'{kind} ({name})' for name, kind in computes.items())}, "
        f"{options.rounds} pairs, {options.clock} seconds of {'all' if count is None else count} "
        f"thread{'' if count == 1 else 's'}"
    )
    section = page(rows, about)
    print(f"\n{section.splitlines()[0]}")
    if options.update_docs:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n\n{section}\n\n{END}{after}", encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
