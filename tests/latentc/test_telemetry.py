"""No command tells a vendor of its use or leaves an id in the user's home; what the user's variables say holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Every Python process of a run says what it connects to.
HOOK = """
import os, sys

def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        with open(os.environ["SEEN"], "a") as file:
            print(event, *arguments[-1:], file=file)

sys.addaudithook(hook)
"""

# In these, the vendors' libraries are silent by themselves.
SILENT = (
    "CI", "TF_BUILD", "GITHUB_ACTIONS", "JENKINS_URL", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "NNCF_CI",
    "HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK",
)  # fmt: skip

BOTH = """
import sys
import latentc

for target in ("onnxruntime", "openvino"):
    latentc.compile(latentc.CompileRequest(model=sys.argv[1], out=target, target=target))
    with latentc.load(target) as pipeline:
        pipeline.generate("a cat", steps=1, seed=1)
"""


class Users:
    """A user's machine: a new home, and none of the variables that keep libraries silent."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self._folder = folder
        (folder / "hook").mkdir(parents=True)
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        self.home.mkdir()

    def run(self, *arguments: str, **env: str) -> str:
        """What a Python process prints."""
        kept = {name: value for name, value in os.environ.items() if name not in SILENT}
        path = os.pathsep.join([str(self._folder / "hook"), *filter(None, sys.path)])
        own = {"HOME": self.home, "USERPROFILE": self.home, "LOCALAPPDATA": self.home / "local"}
        own |= {f"XDG_{name}_HOME": self.home / name for name in ("CACHE", "CONFIG", "DATA", "STATE")}
        own |= {"LATENTC_CACHE": self._folder / "cache", "SEEN": self._folder / "seen", "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self._folder, capture_output=True, text=True, check=False,
            env={**kept, **{name: str(value) for name, value in own.items()}, **env},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def traces(self) -> list[str]:
        """Files in the home and connections of all processes."""
        seen = self._folder / "seen"
        files = [str(file.relative_to(self.home)) for file in self.home.rglob("*") if file.is_file()]
        return files + (seen.read_text().splitlines() if seen.is_file() else [])


@pytest.fixture
def user(tmp_path: Path) -> Users:
    return Users(tmp_path)


@pytest.mark.slow
def test_a_command_that_loads_both_runtimes_leaves_nothing(user: Users) -> None:
    assert "openvino" in user.run("-m", "latentc", "targets")
    assert user.traces() == []


@pytest.mark.slow
def test_nor_do_compiling_and_drawing_with_both(user: Users, tmp_path: Path) -> None:
    from tests.sweep.models import CASES

    CASES["sd15"].build().save_pretrained(tmp_path / "model")
    user.run("-c", BOTH, str(tmp_path / "model"))
    assert user.traces() == []


STATE = """
import json, os, sys
import {package}
print(json.dumps([os.environ.get("ORT_DISABLE_TELEMETRY"), "openvino_telemetry" in sys.modules]))
"""


@pytest.mark.parametrize("package", ["bench", "compiler", "runtimes", "targets"])
def test_it_is_off_before_a_package_imports_anything(user: Users, package: str) -> None:
    assert json.loads(user.run("-c", STATE.format(package=package))) == ["1", True]


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({"ORT_DISABLE_TELEMETRY": ""}, ["1", True]),
        ({"ORT_DISABLE_TELEMETRY": "0"}, ["0", True]),
        ({"LATENTC_TELEMETRY": "0"}, ["1", True]),
        ({"LATENTC_TELEMETRY": "1"}, [None, False]),
    ],
)
def test_what_the_user_says_holds(user: Users, env: dict[str, str], found: list[object]) -> None:
    assert json.loads(user.run("-c", STATE.format(package="runtimes"), **env)) == found


def test_the_package_alone_changes_nothing(user: Users) -> None:
    assert json.loads(user.run("-c", STATE.format(package="latentc"))) == [None, False]


def test_no_process_of_ours_fetches_native_code(tmp_path: Path) -> None:
    """bitsandbytes fetches kernels when it is imported, where the package for that is installed."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('fetched')", encoding="utf-8")
    script = (
        "import importlib.util, sys\n"
        "from runtimes.quiet import quiet_libraries\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "quiet_libraries()\n"
        "assert importlib.util.find_spec('kernels') is None\n"
        "try:\n    import kernels\nexcept ImportError:\n    print('absent')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "absent\n"), done.stderr
