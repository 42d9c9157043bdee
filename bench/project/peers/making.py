"""Makes what is measured, each once: seconds, and memory under a limit; what it took is noted beside it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts import worker
from bench.project import memlimit, peers
from bench.project.memlimit import MIB
from bench.project.peers.contenders import Export, Ours
from compiler.model_source import ModelSource


@dataclass(frozen=True)
class Made:
    """What making a variant took: seconds, bytes of memory at most; or why it failed."""

    seconds: float
    memory: int | None
    error: str = ""


class Maker:
    """Runs what makes the variants, each once."""

    def __init__(
        self,
        model: ModelSource,
        work: Path,
        limit: int | None,
        tell: Callable[[str], None],
        min_psnr: float | None = None,
    ) -> None:
        """
        Args:
            limit: bytes of memory, hard; None for none.
            min_psnr: dB that our search for speed is held to; None for its own.
        """
        self.model = model
        self.work = work
        self.limit = limit
        self.tell = tell
        self.min_psnr = min_psnr
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
        gate = self.min_psnr if variant.fastest else None
        if gate is not None:
            command += ["--min-psnr", f"{gate:g}"]
        return out, self._once(out, lambda: self._run(variant.name, command), gate)

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

    def _once(self, out: Path, run: Callable[[], Made], gate: float | None = None) -> Made:
        """What making `out` takes; what an earlier run noted of the same folder, model and gate."""
        note = out.with_name(f"{out.name}.made.json")
        if out.is_dir() and note.is_file():
            noted = json.loads(note.read_text(encoding="utf-8"))
            if (noted.pop("model", None), noted.pop("min_psnr", None)) == (self.model.id, gate):
                self.tell(f"{out.name}: made before")
                return Made(**noted)
        result = run()
        if not result.error:
            content = {"model": self.model.id, "min_psnr": gate, **dataclasses.asdict(result)}
            note.write_text(json.dumps(content), encoding="utf-8")
        return result

    def _run(self, subject: str, command: Sequence[str], peer: bool = False) -> Made:
        self.tell(f"{subject}: making")
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
        self.tell(f"{subject}: {error or f'{usage.seconds:.0f} s'}")
        return Made(usage.seconds, usage.peak or usage.resident, error)
