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
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from artifacts.errors import LatentcError
from artifacts.manifest_reading import read_manifest
from artifacts.progress import Event
from bench import report
from bench.bench_request import BenchRequest, bench
from bench.interleaved_run import Outcome
from bench.project import peers
from bench.project.memlimit import MIB
from bench.project.peers import starts
from bench.project.peers.contenders import OURS, PEERS, Ours, Peer
from bench.project.peers.making import Made, Maker
from bench.project.peers.peers_page import PAGE, page
from bench.record import Bench, Variant
from bench.report import markdown
from bench.subjects import Subject, pytorch
from compiler.model_source import ModelSource
from compiler.source import open_model
from runtimes.quiet import quiet_libraries


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
    artifacts = {artifact.name: maker.ours(artifact) for artifact in ours}
    for name, (_, took) in artifacts.items():
        if took.error:
            raise LatentcError(f"{name}: {took.error}")
    roots = [*(str(out) for out, _ in artifacts.values()), *request.artifacts]
    manifest = read_manifest(Path(roots[0]))
    subjects, failed = [], []
    for peer in others:
        try:
            subjects.append(_subject(peer, model, manifest, maker))
        except LatentcError as error:
            failed.append((peer, error.message.strip().splitlines()[-1]))
    wanted = dataclasses.replace(request, artifacts=tuple(roots), reference=request.reference or model.id)
    outcome = bench(wanted, command, progress, subjects)
    return dataclasses.replace(outcome, bench=_complete(outcome.bench, artifacts, failed))


def _subject(peer: Peer, model: ModelSource, manifest: object, maker: Maker) -> Subject:
    """What to measure of a peer; its files are made.

    Raises:
        LatentcError: its environment or its files cannot be made.
    """
    if peer.loader is None:
        subject = pytorch(model, manifest, "text-to-image", peer.name, **peer.options)  # type: ignore[arg-type]
        # What torch.compile made in an earlier run would be there at a cold start.
        cache = tempfile.mkdtemp(prefix="torch-compile-", dir=maker.work)
        env = {**subject.env, "TORCHINDUCTOR_CACHE_DIR": cache}
        return dataclasses.replace(subject, kind="peer", about=dict(peer.about), env=env)
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
    record: Bench, artifacts: Mapping[str, tuple[Path, Made]], failed: Sequence[tuple[Peer, str]]
) -> Bench:
    """The record with what making ours took, and a row for each peer that could not be made."""
    took = {out.name: cost for out, cost in artifacts.values()}
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


def scripts(
    ours: Sequence[Ours], others: Sequence[Peer], maker: Maker, tell: Callable[[str], None]
) -> list[starts.Script]:
    """How each is started by a person; those whose files cannot be made are left out."""
    interpreter = peers.python("latentc", tell)
    started = [starts.Script.ours(variant.name, maker.ours(variant)[0], interpreter) for variant in ours]
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
            started.append(starts.Script(peer.name, python, peer.loader, out, files, peers.environment()))
    return started


def _printed(args: Sequence[str]) -> list[str]:
    """The command's arguments without where it keeps what it makes, which changes no figure."""
    kept = list(args)
    if "--work" in kept:
        at = kept.index("--work")
        del kept[at : at + 2]
    return kept


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
    parser.add_argument(
        "--min-psnr", type=float, metavar="DB", help="what our rows with a search for speed are held to"
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
    command = [
        "python",
        "-m",
        "bench.project.peers.measure",
        *_printed(sys.argv[1:] if args is None else args),
    ]
    with tempfile.TemporaryDirectory(prefix="latentc-peers-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        try:
            model = open_model(options.model)
            maker = Maker(model, work, options.limit * MIB if options.limit else None, tell, options.min_psnr)
            if options.starts:
                peers.python("latentc", tell)  # What fails, fails before the hours.
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
