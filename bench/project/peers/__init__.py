"""Other projects to measure against, each in a virtual environment made when it is first asked for.

`python -m bench.project.peers NAME` makes one and prints its Python.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from artifacts.cache import cache_dir
from artifacts.errors import LatentcError, UsageError

HERE = Path(__file__).resolve().parent
READY = "latentc-peer.txt"
"""Written into an environment when it is whole; holds the digest of what it was made from."""


@dataclass(frozen=True)
class Peer:
    """An environment.

    Attributes:
        packages: what is installed.
        remove: what is taken out again.
        pins: the versions, and those of all dependencies; empty for NAME.txt beside this file.
        made_of: other files that it changes with.
    """

    packages: tuple[str, ...]
    remove: tuple[str, ...] = ()
    pins: str = ""
    made_of: tuple[str, ...] = ()


_ROOT = HERE.parents[2]

PEERS: Mapping[str, Peer] = {
    # What `pip install latentc` brings; not what its tests and measurements need besides.
    "latentc": Peer(
        (str(_ROOT),), pins=str(_ROOT / "constraints.txt"), made_of=(str(_ROOT / "pyproject.toml"),)
    ),
    # openvino-telemetry: OpenVINO and NNCF tell nobody of their use where it is missing.
    # torchvision: optimum-intel names it as a dependency, diffusion models do not use it, and beside a CPU
    # build of torch its default wheel fails on import.
    "optimum-intel": Peer(
        ("torch", "optimum-intel", "openvino-tokenizers", "diffusers", "accelerate"),
        remove=("openvino-telemetry", "torchvision"),
    ),
    "optimum-onnx": Peer(("torch", "optimum-onnx", "onnxruntime", "diffusers", "accelerate")),
    # torch: for the numbers of its generator, so that the noise is PyTorch's.
    "openvino-genai": Peer(
        ("torch", "openvino-genai", "openvino-tokenizers", "numpy"), remove=("openvino-telemetry",)
    ),
}


def python(name: str, tell: Callable[[str], None] = lambda line: None) -> Path:
    """The Python of the environment `name`; made when it is not there, or not of the versions listed now.

    Raises:
        UsageError: there is no such peer.
        LatentcError: an installation failed; the message ends with pip's last lines.
    """
    peer = PEERS.get(name)
    if peer is None:
        raise UsageError(
            f"there is no peer '{name}' (there are: {', '.join(PEERS)}).", "See: bench/project/peers/"
        )
    pins = Path(peer.pins) if peer.pins else HERE / f"{name}.txt"
    files = (pins, *map(Path, peer.made_of))
    texts = [file.read_text(encoding="utf-8") for file in files]
    digest = hashlib.sha256("\n".join((str(peer), *texts)).encode()).hexdigest()
    folder = cache_dir() / "peers" / name
    where = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ready = folder / READY
    if ready.is_file() and ready.read_text(encoding="utf-8").strip() == digest and where.is_file():
        return where
    tell(f"{name}: making its environment in {folder} (minutes; about 2 GB)")
    if folder.exists():
        shutil.rmtree(folder)
    venv.create(folder, with_pip=True, symlinks=sys.platform != "win32")
    _pip(where, "install", "--constraint", str(pins), *peer.packages)
    if peer.remove:
        _pip(where, "uninstall", "--yes", *peer.remove)
    ready.write_text(digest + "\n", encoding="utf-8")
    return where


def run(name: str, *arguments: str, tell: Callable[[str], None] = lambda line: None) -> str:
    """Runs `python ARGUMENTS` in the environment `name`, offline; returns what it printed.

    Raises:
        LatentcError: it exited with another status than 0; the message ends with its last lines.
    """
    command = [str(python(name, tell)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise LatentcError(f"{name} failed (exit status {done.returncode}):\n{_tail(done.stderr)}")
    return done.stdout


def environment() -> dict[str, str]:
    """Our environment variables, without our import path, and with hub clients told to stay offline."""
    ours = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**ours, "HF_HUB_OFFLINE": "1", "DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def _pip(where: Path, *arguments: str) -> None:
    # Isolated: no file of the current folder is pip's.
    command = [str(where), "-I", "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LatentcError(
            f"pip {arguments[0]} failed:\n{_tail(done.stderr)}", f"Try it by hand: {' '.join(command)}"
        )


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
