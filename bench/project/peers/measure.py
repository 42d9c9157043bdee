"""`python -m bench.project.peers.measure`: our artifacts beside other projects', from one model to one table.

Every one makes what it runs from the same model: that is timed, and its memory watched, under a limit where one is
given. Then all of them draw the same prompts from the same seeds, in turn, as `latentc bench` does, and are started as
a person starts them (`starts`). What fails is a row with its error. With --work, what was made is not made again: a run
that was stopped goes on, and may be split by --ours and --peer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts import worker
from artifacts.errors import LatentcError
from artifacts.manifest_reading import read_manifest
from artifacts.progress import Event
from bench import report
from bench.bench_request import BenchRequest, bench
from bench.interleaved_run import Outcome
from bench.project import memlimit, peers
from bench.project.memlimit import MIB
from bench.project.peers import starts
from bench.record import Bench
from bench.report import markdown, tables
from bench.subjects import Subject, pytorch
from compiler.model_source import ModelSource
from compiler.source import open_model
from runtimes.quiet import quiet_libraries

PAGE = Path(__file__).resolve().parents[3] / "docs" / "peers.md"


@dataclass(frozen=True)
class Ours:
    """One way that we compile: everything but the target, and the search for speed, is left to our defaults."""

    target: str
    fastest: bool = False

    @property
    def name(self) -> str:
        """Of its folder and its row."""
        return f"latentc {self.target}" + (" fastest" if self.fastest else "")


@dataclass(frozen=True)
class Export:
    """How a peer makes its files: `python ARGUMENTS` in its environment, which is given the model and the folder."""

    peer: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    """Another way to run the model.

    Attributes:
        name: of its row.
        loader: of `engines.py`, run in the environment `environment`; or None for PyTorch here.
        export: makes what it loads.
        options: of `bench.drawing_engines.TorchEngine`.
        about: for people.
    """

    name: str
    about: Mapping[str, str]
    loader: str | None = None
    environment: str = ""
    export: Export | None = None
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)


_CLI = ("-m", "optimum.commands.optimum_cli", "export")
OPENVINO = Export("optimum-intel", (*_CLI, "openvino", "--task", "text-to-image", "--weight-format", "fp16"))
ONNX = Export("optimum-onnx", (*_CLI, "onnx", "--task", "text-to-image"))

OURS = (
    Ours("openvino"),
    Ours("onnxruntime"),
    Ours("openvino", fastest=True),
    Ours("onnxruntime", fastest=True),
)
PEERS = (
    Peer(
        "PyTorch bf16 channels-last",
        {"target": "pytorch", "precision": "bf16"},
        options={"precision": "bf16", "channels_last": True},
    ),
    Peer("torch.compile fp32", {"target": "pytorch", "precision": "fp32"}, options={"compile": True}),
    Peer(
        "torch.compile bf16",
        {"target": "pytorch", "precision": "bf16"},
        options={"precision": "bf16", "channels_last": True, "compile": True},
    ),
    Peer(
        "optimum-intel fp16",
        {"target": "openvino", "precision": "fp16"},
        "optimum-intel",
        "optimum-intel",
        OPENVINO,
    ),
    Peer(
        "openvino_genai fp16",
        {"target": "openvino", "precision": "fp16"},
        "openvino-genai",
        "openvino-genai",
        OPENVINO,
    ),
    Peer(
        "optimum-onnx fp32",
        {"target": "onnxruntime", "precision": "fp32"},
        "optimum-onnx",
        "optimum-onnx",
        ONNX,
    ),
)


@dataclass(frozen=True)
class Made:
    """What making a variant took: seconds, bytes of memory at most; or why it failed."""

    seconds: float
    memory: int | None
    error: str = ""


class Maker:
    """Runs what makes the variants, each once."""

    def __init__(
        self, model: ModelSource, work: Path, limit: int | None, tell: Callable[[str], None]
    ) -> None:
        self.model = model
        self.work = work
        self.limit = limit
        self.tell = tell
        self._exports: dict[Export, tuple[Path, Made]] = {}

    def ours(self, variant: Ours) -> tuple[Path, Made]:
        """Compiles; without the check of its numbers, which the peers do not have."""
        out = self.work / variant.name.replace(" ", "-")
        command = [
            *worker.command("latentc.cli:main"),
            "compile",
            self.model.id,
            str(out),
            "--target",
            variant.target,
        ]
        command += ["--check", "none", "--force"]
        if variant.fastest:
            command.append("--fastest")
        return out, self._once(out, lambda: self._run(variant.name, command))

    def export(self, export: Export) -> tuple[Path, Made]:
        """Runs a peer's own export."""
        if export not in self._exports:
            out = self.work / f"{export.peer}-export"

            def run() -> Made:
                if out.exists():
                    shutil.rmtree(out)
                python = str(peers.python(export.peer, self.tell))
                command = [python, *export.arguments, "--model", str(self.model.root.absolute()), str(out)]
                return self._run(f"{export.peer}: export", command, peer=True)

            self._exports[export] = out, self._once(out, run)
        return self._exports[export]

    def _once(self, out: Path, run: Callable[[], Made]) -> Made:
        """What making `out` takes; what an earlier run with the same folder and model noted, where it is there."""
        note = out.with_name(f"{out.name}.made.json")
        if out.is_dir() and note.is_file():
            noted = json.loads(note.read_text(encoding="utf-8"))
            if noted.pop("model", None) == self.model.id:
                self.tell(f"{out.name}: made before")
                return Made(**noted)
        made = run()
        if not made.error:
            content = {"model": self.model.id, **dataclasses.asdict(made)}
            note.write_text(json.dumps(content), encoding="utf-8")
        return made

    def _run(self, what: str, command: Sequence[str], peer: bool = False) -> Made:
        self.tell(f"{what}: making")
        with tempfile.TemporaryFile() as output:
            usage = memlimit.run(
                command,
                self.limit,
                # A peer must not find our packages: `-m` puts the current folder on its path.
                env=peers.environment() if peer else None,
                cwd=self.work if peer else None,
                output=output,
            )
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
        error = ""
        if usage.killed:
            error = f"killed: it needs more than {(self.limit or 0) // MIB} MiB"
        elif usage.status:
            error = lines[-1] if lines else f"exit status {usage.status}"
        self.tell(f"{what}: {error or f'{usage.seconds:.0f} s'}")
        return Made(usage.seconds, usage.peak or usage.resident, error)


def measure(
    request: BenchRequest,
    model: ModelSource,
    ours: Sequence[Ours],
    others: Sequence[Peer],
    maker: Maker,
    command: Sequence[str],
    progress: Callable[[Event], None],
) -> Outcome:
    """Makes everything and benches it, and the request's artifacts, against PyTorch in fp32.

    Raises:
        LatentcError: one of ours failed.
    """
    made = {artifact.name: maker.ours(artifact) for artifact in ours}
    for name, (_, took) in made.items():
        if took.error:
            raise LatentcError(f"{name}: {took.error}")
    roots = [*(str(out) for out, _ in made.values()), *request.artifacts]
    manifest = read_manifest(Path(roots[0]))
    subjects, failed = [], []
    for peer in others:
        try:
            subjects.append(_subject(peer, model, manifest, maker))
        except LatentcError as error:
            failed.append((peer, error.message.strip().splitlines()[-1]))
    wanted = dataclasses.replace(request, artifacts=tuple(roots), reference=request.reference or model.id)
    outcome = bench(wanted, command, progress, subjects)
    return dataclasses.replace(outcome, bench=_complete(outcome.bench, made, failed))


def _subject(peer: Peer, model: ModelSource, manifest: object, maker: Maker) -> Subject:
    """What to measure of a peer; its files are made.

    Raises:
        LatentcError: its environment or its files cannot be made.
    """
    if peer.loader is None:
        here = pytorch(model, manifest, "text-to-image", peer.name, **peer.options)  # type: ignore[arg-type]
        # What torch.compile made in an earlier run would be there at a cold start.
        made = tempfile.mkdtemp(prefix="torch-compile-", dir=maker.work)
        env = {**here.env, "TORCHINDUCTOR_CACHE_DIR": made}
        return dataclasses.replace(here, kind="peer", about=dict(peer.about), env=env)
    assert peer.export is not None
    out, took = maker.export(peer.export)
    if took.error:
        raise LatentcError(f"its export failed: {took.error}")
    files = tuple(file for file in sorted(out.rglob("*")) if file.is_file())
    python = str(peers.python(peer.environment, maker.tell))
    return Subject(
        name=peer.name,
        kind="peer",
        about=dict(peer.about),
        device="cpu",
        bytes=sum(file.stat().st_size for file in files),
        files=files,
        command=(python, str(peers.HERE / "peer_engines.py"), peer.loader, json.dumps({"folder": str(out)})),
        env={**_offline(), "PYTHONPATH": ""},
        compile_s=took.seconds,
        compile_memory=took.memory,
    )


def _offline() -> dict[str, str]:
    """What `peers.environment` sets besides our own variables."""
    return {name: value for name, value in peers.environment().items() if os.environ.get(name) != value}


def _complete(
    record: Bench, made: Mapping[str, tuple[Path, Made]], failed: Sequence[tuple[Peer, str]]
) -> Bench:
    """The record with what making ours took, and a row for each peer that could not be made."""
    from bench.record import Variant

    took = {out.name: cost for out, cost in made.values()}
    variants = [
        v.model_copy(update={"compile_s": took[v.name].seconds, "compile_memory": took[v.name].memory})
        if v.name in took
        else v
        for v in record.variants
    ]
    rows = [
        Variant(name=peer.name, kind="peer", about=dict(peer.about), device="cpu", bytes=0, error=error)
        for peer, error in failed
    ]
    return record.model_copy(update={"variants": (*variants, *rows)})


_NOT_VERSIONS = {"target", "precision", "compute"}
"""What `Variant.about` holds beside versions."""


def fastest(benchmark: Bench) -> str:
    """Whose step is the fastest on each runtime, a line each; empty where ours and a peer's are not both there."""
    lines = []
    for ours in benchmark.variants:
        if ours.kind != "artifact" or ours.speed is None or ours.speed.step_ms is None:
            continue
        runtime, step = ours.about["target"], ours.speed.step_ms.median
        others = {
            v.name: v.speed.step_ms.median
            for v in benchmark.variants
            if v.kind == "peer" and v.about.get("target") == runtime and v.speed and v.speed.step_ms
        }
        if not others:
            continue
        name, best = min(others.items(), key=lambda item: item[1])
        who, time = (ours.name, step) if step <= best else (name, best)
        lines.append(
            f"- The fastest step on {runtime} is that of {who}, {time:.4g} ms; {ours.name} takes {step / best:.2f} of "
            f"the time of {name}, the fastest of the others."
        )
    return "\n".join(lines)


def scripts(
    ours: Sequence[Ours], others: Sequence[Peer], maker: Maker, tell: Callable[[str], None]
) -> list[starts.Script]:
    """How each is started by a person; those whose files cannot be made are left out."""
    found = [starts.Script.ours(variant.name, maker.ours(variant)[0]) for variant in ours]
    for peer in others:
        if peer.loader is None or peer.export is None:
            continue
        try:
            out, took = maker.export(peer.export)
            python = str(peers.python(peer.environment, tell))
        except LatentcError:
            continue  # Its row says so.
        if not took.error:
            files = tuple(file for file in sorted(out.rglob("*")) if file.is_file())
            found.append(starts.Script(peer.name, python, peer.loader, out, files, peers.environment()))
    return found


def page(benchmark: Bench, model: str, waited: str = "") -> str:
    """The table as a page of the docs.

    Args:
        waited: the table of `starts`.
    """
    parts = [
        "# Beside other projects",
        "<!-- Written by the command at its end. -->",
        f"The model `{model}` on one machine, everything made from the same files, drawn from the same seeds, in turn; "
        "what each column means is in [bench.md](bench.md). `made in` is each project's own export or compile, ours "
        "without the check of its numbers. Each project, ours too, runs with its own defaults, in an environment of "
        "its own; `computes in` is the type that it chose.",
        markdown.table(benchmark, tables.used(tables.SPEED, benchmark)),
        fastest(benchmark),
        waited
        and "From the start of a process to the end of the first step, of a script with the lines of each project's "
        "own README, imports among them; medians. Cold: nothing compiled in its cache, its files read from disk.",
        waited,
        markdown.table(benchmark, tables.used(tables.QUALITY, benchmark)),
        "\n".join(f"- {note}" for note in [*tables.failures(benchmark), *tables.notes(benchmark)]),
        "## Where",
        "\n".join(f"- {name}: {value}" for name, value in tables.environment(benchmark)),
        "- versions: "
        + "; ".join(
            f"{v.name}: " + ", ".join(f"{k} {x}" for k, x in v.about.items() if k not in _NOT_VERSIONS)
            for v in benchmark.variants
            if set(v.about) - _NOT_VERSIONS
        ),
        f"```sh\n{shlex.join(benchmark.command)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main(args: Sequence[str] | None = None) -> int:
    """Runs the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.project.peers.measure", description=__doc__)
    parser.add_argument("--model", default="shapes", help="a Stable Diffusion model (default: shapes)")
    parser.add_argument("--prompts", type=Path, help="a text file (default: those of latentc bench)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--starts",
        type=int,
        default=3,
        metavar="N",
        help="how often each is started as a person starts it (default: 3)",
    )
    parser.add_argument(
        "--peer", action="append", choices=[p.name for p in PEERS], help="of these only; may be repeated"
    )
    parser.add_argument(
        "--ours", action="append", choices=[artifact.name for artifact in OURS], help="the same of our own"
    )
    parser.add_argument(
        "--artifact",
        action="append",
        default=[],
        metavar="DIR",
        help="one of the model that was compiled before, beside those that are made; may be repeated",
    )
    parser.add_argument(
        "--limit", type=int, metavar="MIB", help="hard memory limit of every export and compile"
    )
    parser.add_argument("--work", type=Path, help="where what is made is kept (default: a temporary folder)")
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write the report of latentc bench")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write it as a page of the docs")
    parser.add_argument(
        "--update-docs", action="store_const", const=PAGE, dest="page", help="the same to docs/peers.md"
    )
    options = parser.parse_args(args)
    quiet_libraries()

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    tasks: set[str] = set()

    def progress(event: Event) -> None:
        if event.task not in tasks:
            tasks.add(event.task)
            tell(event.task)

    request = BenchRequest(
        artifacts=tuple(options.artifact),
        prompts=options.prompts,
        steps=options.steps,
        seeds=options.seeds,
        guidance=options.guidance,
        size=tuple(options.size) if options.size else None,
        task="text-to-image",
        threads=options.threads,
    )
    ours = [artifact for artifact in OURS if not options.ours or artifact.name in options.ours]
    chosen = [peer for peer in PEERS if not options.peer or peer.name in options.peer]
    command = ["python", "-m", "bench.project.peers.measure", *(sys.argv[1:] if args is None else args)]
    with tempfile.TemporaryDirectory(prefix="latentc-peers-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        try:
            model = open_model(options.model)
            maker = Maker(model, work, options.limit * MIB if options.limit else None, tell)
            begun = time.monotonic()
            outcome = measure(request, model, ours, chosen, maker, command, progress)
            tell(f"drawn in {time.monotonic() - begun:.0f} s, with what was made")
            waited = ""
            if options.starts:
                tell("starts")
                rows = starts.measure(
                    scripts(ours, chosen, maker, tell),
                    outcome.bench.settings.prompts[0],
                    options.steps,
                    options.starts,
                    tell,
                )
                waited = starts.table(rows, frozenset(variant.name for variant in ours))
            tell(f"all of it took {time.monotonic() - begun:.0f} s")
        except LatentcError as error:
            tell(f"Error: {error}")
            return error.exit_code
    record = outcome.bench
    print(markdown.page(record))
    print(f"\n{waited}" if waited else "")
    if options.report:
        report.write(outcome, options.report)
    if options.page:
        options.page.write_text(page(record, options.model, waited), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
