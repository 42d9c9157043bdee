"""What a person waits for: from a process's start to the end of the first step of a picture.

Each project runs the lines of its own README in a fresh process, imports among them, cold (its files not in the page
cache, where the system allows that, and nothing compiled in its cache) and then warm; all take turns.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TextIO

from artifacts.errors import LatentcError
from bench import markdown_tables
from bench.process import forget

ROOT = Path(__file__).resolve().parents[3]

_DIFFUSERS = """
def end(pipe, step, timestep, values):
    print(time.time(), flush=True)
    os._exit(0)

"""
_CALL = "pipe(prompt, num_inference_steps=steps, callback_on_step_end=end)\n"

SCRIPTS: Mapping[str, str] = {
    "latentc": f"""{_DIFFUSERS}import latentc
with latentc.Pipeline.from_pretrained(folder) as pipe:
    {_CALL}""",
    "optimum-intel": f"""{_DIFFUSERS}from optimum.intel import OVDiffusionPipeline
pipe = OVDiffusionPipeline.from_pretrained(folder)
{_CALL}""",
    "optimum-onnx": f"""{_DIFFUSERS}from optimum.onnxruntime import ORTDiffusionPipeline
pipe = ORTDiffusionPipeline.from_pretrained(folder)
{_CALL}""",
    "openvino-genai": """
def end(step, steps, latent):
    print(time.time(), flush=True)
    os._exit(0)

import openvino_genai
pipe = openvino_genai.Text2ImagePipeline(folder, "CPU")
pipe.generate(prompt, num_inference_steps=steps, callback=end)
""",
}
"""By loader: what is typed, and what tells the time at the end of the first step."""

_HEAD = "import os, sys, time\nfolder, prompt, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])\n"


@dataclass(frozen=True)
class Script:
    """One project's start.

    Attributes:
        name: of its row.
        python: of its environment.
        loader: of `SCRIPTS`.
        folder: what it loads; files: what a cold start must read from disk again.
        env: all variables of the process but our own cache's.
    """

    name: str
    python: str
    loader: str
    folder: Path
    files: tuple[Path, ...]
    env: Mapping[str, str]

    @classmethod
    def ours(cls, name: str, folder: Path, python: Path) -> Script:
        """An artifact, with what an installation of ours brings, and this source."""
        files = tuple(file for file in sorted(folder.rglob("*")) if file.is_file())
        return cls(name, str(python), "latentc", folder, files, {**os.environ, "PYTHONPATH": str(ROOT)})

    def run(self, prompt: str, steps: int, cache: Path, errors: TextIO) -> float:
        """Seconds from the start to the end of the first step.

        Raises:
            LatentcError: the script ended before.
        """
        command = [self.python, "-c", _HEAD + SCRIPTS[self.loader], str(self.folder), prompt, str(steps)]
        env = {**self.env, "LATENTC_CACHE": str(cache)}
        errors.seek(0)
        errors.truncate()
        start = time.time()
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env, cwd=cache)
        try:
            return float(ended.stdout.split()[-1]) - start
        except (IndexError, ValueError):
            errors.seek(0)
            lines = errors.read().strip().splitlines() or [f"exit status {ended.returncode}"]
            raise LatentcError(f"{self.name} made no first step: {lines[-1]}") from None


@dataclass
class Waited:
    """Seconds of each start; or why there are none."""

    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    error: str = ""


def measure(
    scripts: Sequence[Script],
    prompt: str,
    steps: int,
    rounds: int,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Waited]:
    """Starts each, cold and then warm, in turn; a project that fails is left out of the rest."""
    waited = {script.name: Waited() for script in scripts}
    with tempfile.TemporaryDirectory(prefix="latentc-starts-") as temporary:
        for number in range(rounds):
            for script in scripts if number % 2 == 0 else reversed(scripts):
                row = waited[script.name]
                if row.error:
                    continue
                cache = Path(temporary) / f"{script.name.replace(' ', '-')}-{number}"
                cache.mkdir()
                with tempfile.TemporaryFile("w+", errors="replace") as errors:
                    try:
                        forget(script.files)
                        row.cold.append(script.run(prompt, steps, cache, errors))
                        # What was read is remembered when the file has not changed for a moment.
                        row.warm.append(script.run(prompt, steps, cache, errors))
                    except LatentcError as error:
                        row.error = error.message
                        tell(error.message)
                        continue
                tell(f"{script.name}: {row.cold[-1]:.2f} s cold, {row.warm[-1]:.2f} s warm")
    return waited


HEAD = ("", "cold", "warm", "cold / the fastest other", "warm / the fastest other")


def table(waited: Mapping[str, Waited], ours: frozenset[str]) -> str:
    """Medians as a Markdown table; ours beside the fastest of the others.

    Args:
        ours: names of the rows that are compared.
    """
    lines = [markdown_tables.head(HEAD, right=HEAD[1:])]
    others = {name: row for name, row in waited.items() if name not in ours and row.cold and not row.error}
    for name, row in waited.items():
        if row.error or not row.cold:
            lines.append(markdown_tables.row((name, row.error or "-", "", "", "")))
            continue
        cells = [f"{median(times):.2f} s" for times in (row.cold, row.warm)]
        if name in ours and others:
            cold = min(median(other.cold) for other in others.values())
            warm = min(median(other.warm) for other in others.values())
            cells += [f"{median(row.cold) / cold:.2f}", f"{median(row.warm) / warm:.2f}"]
        else:
            cells += ["", ""]
        lines.append(markdown_tables.row((name, *cells)))
    return "\n".join(lines)
