"""The built wheel in an environment of its own, among packages that have the names of our folders."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("artifacts", "bench", "compiler", "runtimes", "targets")
PROMPT = "a large red circle at the left on a blue background"

pytestmark = pytest.mark.slow

# A target of another package, which imports our contracts by their public names.
OTHER_TARGET = """
from latentc.contracts import Availability, Requirements


class Other:
    name, summary, rebuild = "other", "a target of another package", None
    requirements = Requirements((18, 23), frozenset({"fp32"}), "weights", frozenset(), (), True)
    options = type("Options", (), {"__dataclass_fields__": {}})

    def available(self):
        return Availability(ok=False, reason="it is a test", install="pip install nothing")


TARGET = Other()
"""

# Imports every module of ours, resolves every table, and tells where they came from.
IMPORT_ALL = """
import importlib, pkgutil, sys
import latentc

names = [m.name for m in pkgutil.walk_packages(latentc.__path__, "latentc.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)

from latentc._src.compiler.passes import pass_table as passes
from latentc._src.compiler.quantize import scheme_table as schemes
from latentc._src.runtimes.sessions import session_table as sessions
from latentc._src.targets import target_table as targets

for get, of in (
    (passes.make, passes.PASSES), (schemes.get, schemes.SCHEMES),
    (sessions.get, sessions.SESSIONS), (targets.get, targets.TARGETS),
):
    for name in of:
        assert type(get(name)).__module__.startswith("latentc._src."), name
assert all(getattr(latentc, name) is not None for name in latentc.__all__)
print(len(names))
"""

# Several commands in one process, which imports torch once.
COMMANDS = f"""
import sys
import pytest
from latentc.cli import main

for line in (
    ["compile", "shapes", "out", "--target", "onnxruntime", "--pictures", "0"],
    ["generate", "out", {PROMPT!r}, "--steps", "2", "--seed", "7", "-o", "picture.png"],
    ["graph", "snapshot", "shapes", "--component", "text_encoder", "--target", "onnxruntime", "-o", "shapes.graph"],
    ["graph", "check", "shapes", "--golden", "shapes.graph"],
):
    try:
        main(line)
    except SystemExit as stop:
        if stop.code:
            sys.exit(f"latentc {{' '.join(line)}} ended with {{stop.code}}")
# The plugin is found by its entry point.
sys.exit(pytest.main(["--latentc-golden", ".", "-q", "-p", "no:cacheprovider", "."]))
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment and a folder to run in, where there is nothing."""

    python: str
    folder: Path

    def run(self, *args: str) -> str:
        """What Python printed on stdout."""
        settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        settings["LATENTC_CACHE"] = str(self.folder / "cache")
        done = subprocess.run(
            [self.python, *args], cwd=self.folder, env=settings, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(args)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def built(project: Path, out: Path, kind: str) -> Path:
    """What hatchling makes of a project: "wheel" or "sdist"."""
    script = f"import sys, hatchling.build as backend; print(backend.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(out)], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def pip_install(package: Path, *, python: str = sys.executable, into: Path | None = None) -> None:
    """Has pip install a wheel or an sdist, whose dependencies and build backend are those of the tests."""
    pytest.importorskip("pip")
    install = ["install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    target = [] if into is None else ["--target", str(into)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *install, *target, str(package)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel beside packages with our folders' names; dependencies are those of the tests, by path alone.

    Folders on the path have no effect but that modules are found there: our own editable install does not count.
    """
    root = tmp_path_factory.mktemp("environment")
    builder = venv.EnvBuilder(symlinks=os.name != "nt")
    builder.create(root / "venv")
    found = Environment(builder.ensure_directories(root / "venv").env_exe, root / "empty")
    found.folder.mkdir()
    packages = Path(found.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())

    pip_install(wheel, python=found.python)
    for name in FOLDERS:
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text(f"raise SystemExit('{name} was imported')", "utf-8")
    (packages / "other_target.py").write_text(OTHER_TARGET, encoding="utf-8")
    about = packages / "other_target-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other-target\nVersion: 1.0\n", encoding="utf-8"
    )
    (about / "entry_points.txt").write_text(
        "[latentc.targets]\nother = other_target:TARGET\n", encoding="utf-8"
    )
    dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    return found


def test_the_wheel_has_one_name_at_the_top(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"latentc"}
        assert {f"latentc/_src/{folder}/py.typed" for folder in FOLDERS} < set(names)
        assert "latentc/_src/bench/reference/shapes/model_index.json" in names
        (points,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
        assert "shapes = latentc._src.bench.reference:SHAPES_DIR" in points
        for name in names:
            if name.endswith(".py"):
                for node in ast.walk(ast.parse(archive.read(name))):
                    of = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                    if isinstance(node, ast.ImportFrom) and not node.level:
                        of = [node.module or ""]
                    assert not {module.split(".")[0] for module in of} & set(FOLDERS), name
    # The built-in model is 10 MB of it.
    assert wheel.stat().st_size < 12 * 2**20


def test_the_sdist_makes_the_same_wheel(wheel, tmp_path):
    sdist = built(ROOT, tmp_path, "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(
            tmp_path / "unpacked", **({"filter": "data"} if sys.version_info >= (3, 12) else {})
        )
    (project,) = (tmp_path / "unpacked").iterdir()
    again = built(project, tmp_path / "again", "wheel")
    assert again.name == wheel.name
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_pip_installs_the_same_from_the_sdist(environment, tmp_path):
    pip_install(built(ROOT, tmp_path, "sdist"), into=tmp_path / "installed")
    script = "import latentc, pathlib; print(pathlib.Path(latentc.__file__).parent)"
    from_wheel = Path(environment.run("-c", script).strip())
    from_sdist = tmp_path / "installed" / "latentc"
    assert hashes(from_sdist) == hashes(from_wheel)
    assert {path.name for path in (tmp_path / "installed").iterdir() if ".dist-info" not in path.name} <= {
        "latentc",
        "bin",
    }


def hashes(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file but what Python compiles."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_module_and_every_table_is_found_in_the_wheel(environment):
    assert int(environment.run("-c", IMPORT_ALL).split()[-1]) > 100


def test_other_packages_see_the_contracts_and_are_seen(environment):
    assert "a target of another package" in environment.run("-m", "latentc", "targets")


def test_commands_work_where_other_packages_have_our_folders_names(environment):
    environment.run("-c", COMMANDS)
    folder = environment.folder
    assert (folder / "picture.png").stat().st_size > 500
    # An artifact is the same wherever it was compiled: it knows none of our modules.
    for file in [*(folder / "out").rglob("*"), folder / "shapes.graph"]:
        assert not file.is_file() or b"_src" not in file.read_bytes(), file
    (folder / "prompts.txt").write_text(PROMPT, encoding="utf-8")
    shown = environment.run(
        "-m", "latentc", "bench", "out", "--prompts", "prompts.txt", "--seeds", "1", "--steps", "1"
    )
    assert "step ms" in shown


def test_editable_installs_are_the_folders_themselves(tmp_path):
    with zipfile.ZipFile(built(ROOT, tmp_path, "editable")) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert {Path(line) for line in archive.read(path).decode().splitlines()} == {ROOT}
        assert not [name for name in archive.namelist() if name.endswith(".py")]
        (points,) = [archive.read(name).decode() for name in archive.namelist() if "entry_points" in name]
    assert "shapes = bench.reference:SHAPES_DIR" in points
