"""`python -m bench.project.full_size.compile_costs`: what compiling models of published sizes costs, by one command.

Makes the models (random weights), compiles each in a process of its own under a hard memory limit, exports
the same Stable Diffusion 1.5 with optimum-intel (in its own virtual environment), turn by turn with ours, and
holds the figures to what the project claims. Exit status 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from artifacts import worker
from artifacts.errors import LatentcError
from bench.project import memlimit, peers
from bench.project.full_size.make import make
from bench.project.full_size.published import PUBLISHED
from bench.project.memlimit import MIB

LIMITS = {"sd15": 1536, "sdxl": 2560, "flux": 1536, "optimum-intel": 5120}
"""MiB that each is run under."""
QUANTIZED_LIMITS = {"sd15": 1536, "sdxl": 2560, "flux": 4096}
"""MiB that each is compiled under with --quantize."""
MEASURED = tuple(QUANTIZED_LIMITS)
"""What this command measures, of the published models."""
STORED = {"flux": "bf16"}
"""What published weights are stored in, where that is not fp16."""
MOST_OF_PEER = 0.75
"""Our share of optimum-intel's wall time, at most."""
FLUX_SECONDS = 90.0
"""For the transformer's graph, from its config to the folded graph."""


@dataclass(frozen=True)
class Figure:
    """One command that was run.

    Attributes:
        subject: in words.
        limit: the hard limit in MiB, or None.
        status: exit status; 137 when killed for its memory.
        seconds: wall time.
        cpu: seconds of all its processes on a processor, which say more than wall time on a busy machine.
        group: MiB of all its processes and the page cache at most; None without a limit.
        resident: MiB of its largest process at most; None where the system does not tell.
        detail: what the command itself printed of its work.
    """

    subject: str
    limit: int | None
    status: int
    seconds: float
    cpu: float | None
    group: int | None
    resident: int | None
    detail: Mapping[str, float]


@dataclass(frozen=True)
class Claim:
    """`measured` against `required`, in words; `holds` is None when a figure that it needs was not measured."""

    subject: str
    required: str
    measured: str
    holds: bool | None


class Runs:
    """Runs commands and keeps their figures."""

    def __init__(self, work: Path, limits: bool, tell: Callable[[str], None]) -> None:
        self.work = work
        self.limits = limits
        self.tell = tell
        self.figures: list[Figure] = []

    def model(self, name: str, hollow: bool = False) -> Path:
        """The model's folder; made when it is not there, `hollow` without numbers, for graphs."""
        folder = self.work / (f"{name}-hollow" if hollow else name)
        if not (folder / "model_index.json").exists():
            if folder.exists():
                shutil.rmtree(folder)
            self.tell(f"making {name} ({PUBLISHED[name].source})")
            dtype = STORED.get(name, "fp16")
            make(PUBLISHED[name], folder, dtype, hollow, tell=lambda line: self.tell(f"  {line}"))
        return folder

    def compile(self, name: str, limit: int, quantize: str = "") -> Figure:
        """`latentc compile` of a model for OpenVINO: the same graphs as the peer's, for all sizes."""
        out = self.work / f"{name}-latentc"
        arguments = ["--target", "openvino", "--precision", "fp16", "--check", "none", "--size", "256..1024"]
        arguments += ["--batch", "1..2", "--task", "text-to-image", "--task", "image-to-image"]
        command = [
            *worker.command("latentc.cli:main"),
            "compile",
            str(self.model(name)),
            str(out),
            *arguments,
        ]
        if quantize:
            command += ["--quantize", quantize]
        return self._run(f"latentc: {name} to OpenVINO {quantize or 'fp16'}", command, limit, out)

    def artifact(self, subject: str, name: str, out: Path, arguments: Sequence[str], limit: int) -> Figure:
        """`latentc compile` of a model; what it makes stays."""
        command = [*worker.command("latentc.cli:main"), "compile", str(self.model(name)), str(out)]
        return self._run(subject, [*command, *arguments], limit)

    def peer(self, name: str, limit: int | None) -> Figure:
        """optimum-intel's export of a model to OpenVINO."""
        out = self.work / f"{name}-optimum"
        python = peers.python("optimum-intel", self.tell)
        command = [str(python), "-m", "optimum.commands.optimum_cli", "export", "openvino"]
        command += [
            "--model",
            str(self.model(name)),
            "--task",
            "text-to-image",
            "--weight-format",
            "fp16",
            str(out),
        ]
        return self._run(f"optimum-intel: {name} to OpenVINO fp16", command, limit, out, peer=True)

    def graph(self, name: str, component: str, limit: int) -> Figure:
        """A component's graph without its weights."""
        model = self.model(name, hollow=True)
        command = worker.command("bench.project.full_size.component_graph:main", str(model), component)
        return self._run(f"latentc: graph of {name}'s {component}", command, limit)

    def _run(
        self,
        subject: str,
        command: Sequence[str],
        limit: int | None,
        out: Path | None = None,
        peer: bool = False,
    ) -> Figure:
        limit = limit if self.limits else None
        self.tell(f"{subject}{f', under {limit} MiB' if limit else ''}")
        if out and out.exists():
            shutil.rmtree(out)
        with tempfile.TemporaryFile() as output:
            # `-m` puts the current folder on the path: a peer must not find our packages there.
            usage = memlimit.run(
                command,
                limit * MIB if limit else None,
                env=peers.environment() if peer else None,
                cwd=self.work if peer else None,
                output=output,
            )
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
        if usage.status and not usage.killed:
            raise LatentcError(f"{subject} failed (exit status {usage.status}):\n" + "\n".join(lines[-15:]))
        if out and out.exists():
            shutil.rmtree(out)
        last = lines[-1] if lines and not usage.killed else ""
        detail = json.loads(last) if last.startswith("{") else {}
        figure = Figure(
            subject,
            limit,
            usage.status,
            round(usage.seconds, 1),
            None if usage.cpu is None else round(usage.cpu, 1),
            None if usage.peak is None else usage.peak // MIB,
            None if usage.resident is None or usage.killed else usage.resident // MIB,
            detail,
        )
        self.figures.append(figure)
        self.tell(f"  {_outcome(figure)}")
        return figure


def measure(runs: Runs, names: Sequence[str], rounds: int, peer: bool) -> list[Claim]:
    """Runs what `names` ask for; returns the claims."""
    claims = []
    if "sd15" in names:
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(runs.compile("sd15", LIMITS["sd15"]))
            if peer:
                theirs.append(runs.peer("sd15", None))
        claims.append(fits("SD 1.5 to OpenVINO fp16", ours))
        if peer:
            share = statistics.median(f.seconds for f in ours) / statistics.median(f.seconds for f in theirs)
            claims.append(
                Claim(
                    "SD 1.5: our wall time as a share of optimum-intel's, which has no limit",
                    f"at most {MOST_OF_PEER}",
                    f"{share:.2f}",
                    share <= MOST_OF_PEER and not any(f.status for f in (*ours, *theirs)),
                )
            )
            killed = runs.peer("sd15", LIMITS["optimum-intel"])
            claims.append(
                Claim(
                    f"optimum-intel: the same under {LIMITS['optimum-intel']} MiB",
                    "killed",
                    _outcome(killed) if killed.limit else "not measured",
                    killed.status == 137 if killed.limit else None,
                )
            )
    if "sdxl" in names:
        claims.append(fits("SDXL to OpenVINO fp16", [runs.compile("sdxl", LIMITS["sdxl"])]))
    if "flux" in names:
        flux = runs.graph("flux", "transformer", LIMITS["flux"])
        seconds = flux.detail.get("export", 0.0)
        claims.append(fits("FLUX.1-dev's transformer: its graph", [flux]))
        claims.append(
            Claim(
                "FLUX.1-dev's transformer: its graph, exported and folded",
                f"at most {FLUX_SECONDS:.0f} s",
                f"{seconds:.1f} s" if flux.detail else "not measured",
                seconds <= FLUX_SECONDS if flux.detail else None,
            )
        )
    return claims


def measure_quantized(runs: Runs, names: Sequence[str], quantize: str) -> list[Claim]:
    """Compiles what `names` ask for with quantized weights; returns the claims."""
    return [
        fits(f"{name} to OpenVINO {quantize}", [runs.compile(name, QUANTIZED_LIMITS[name], quantize)])
        for name in names
    ]


def fits(subject: str, figures: Sequence[Figure]) -> Claim:
    """That all of them were done under their limit."""
    first = figures[0]
    if first.limit is None:
        return Claim(subject, "done under a hard limit", "not measured", None)
    failed = [f for f in figures if f.status]
    worst = max(f.group or 0 for f in figures)
    outcome = _outcome(failed[0]) if failed else f"done, at most {worst} MiB"
    return Claim(subject, f"done under {first.limit} MiB", outcome, not failed)


def _outcome(figure: Figure) -> str:
    return (
        f"killed after {figure.seconds:.0f} s" if figure.status == 137 else f"done in {figure.seconds:.0f} s"
    )


def table(figures: Sequence[Figure], claims: Sequence[Claim]) -> str:
    """At most 100 columns."""

    def mib(value: int | None) -> str:
        return "-" if value is None else f"{value:,}"

    lines = [
        f"{'':40}{'limit':>8}{'wall':>9}{'cpu':>9}{'peak':>9}{'process':>9}  outcome",
        f"{'':40}{'MiB':>8}{'s':>9}{'s':>9}{'MiB':>9}{'MiB':>9}",
    ]
    for f in figures:
        outcome = "killed" if f.status == 137 else "done"
        cpu = "-" if f.cpu is None else f"{f.cpu:.1f}"
        lines.append(
            f"{f.subject:40}{mib(f.limit):>8}{f.seconds:>9.1f}{cpu:>9}{mib(f.group):>9}{mib(f.resident):>9}"
            f"  {outcome}"
        )
        if f.detail:
            seconds = ", ".join(f"{k} {v:.1f} s" for k, v in f.detail.items() if isinstance(v, float))
            counts = ", ".join(f"{v:,} {k}" for k, v in f.detail.items() if isinstance(v, int))
            lines += [f"  {seconds}", f"  {counts}"]
    lines.append("")
    for c in claims:
        verdict = {True: "holds", False: "FAILS", None: "not measured"}[c.holds]
        lines += [f"{verdict}: {c.subject}", f"    required: {c.required}; found: {c.measured}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.project.full_size.compile_costs", description=__doc__
    )
    parser.add_argument("names", nargs="*", metavar="sd15|sdxl|flux", help="of these only (default: all)")
    parser.add_argument("--work", type=Path, help="where the models are kept (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=1, help="turns of ours and the peer's (default: 1)")
    parser.add_argument("--no-peer", action="store_true", help="leave optimum-intel out")
    parser.add_argument("--no-limits", action="store_true", help="no hard limits: works without root")
    parser.add_argument("--quantize", metavar="SPEC", help="compile with quantized weights, and nothing else")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(MEASURED)):
        parser.error(f"there is no {', '.join(unknown)} (there are: {', '.join(MEASURED)}).")
    if args.rounds < 1:
        parser.error("--rounds is at least 1.")
    with tempfile.TemporaryDirectory(prefix="latentc-full-size-") as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        runs = Runs(work.resolve(), not args.no_limits, lambda line: print(line, file=sys.stderr, flush=True))
        try:
            names = args.names or list(MEASURED)
            claims = (
                measure_quantized(runs, names, args.quantize)
                if args.quantize
                else measure(runs, names, args.rounds, not args.no_peer)
            )
        except LatentcError as error:
            sys.exit(f"Error: {error}")
    if args.json:
        record = {"figures": [asdict(f) for f in runs.figures], "claims": [asdict(c) for c in claims]}
        print(json.dumps(record, indent=2))
    else:
        print(table(runs.figures, claims))
    sys.exit(1 if any(claim.holds is False for claim in claims) else 0)


if __name__ == "__main__":
    main()
