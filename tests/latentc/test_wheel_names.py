"""How the names of modules are rewritten for a wheel (hatch_build.py), on small texts and on the whole source."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

import hatch_build
from hatch_build import CannotMove, Modules, Source

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"][
    "wheel"
]

MODULES = Modules(
    shipped={
        "latentc": frozenset({"load"}),
        "latentc.cli": frozenset({"main"}),
        "compiler": frozenset(),
        "compiler.auto": frozenset({"compile"}),
        "compiler.passes": frozenset(),
        "compiler.passes.fold": frozenset({"FoldPass"}),
        "bench": frozenset({"report"}),
        "bench.report": frozenset({"page"}),
    },
    left_out=frozenset({"bench.project", "bench.project.demo"}),
    moved=frozenset({"compiler", "bench"}),
)


def moved(text: str, module: str = "compiler.auto", *, is_package: bool = False) -> str:
    return Source(text.encode(), module, is_package, MODULES).moved().decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from compiler.auto import compile", "from latentc._src.compiler.auto import compile"),
        ("from compiler import auto as a, passes", "from latentc._src.compiler import auto as a, passes"),
        ("from \\\n  compiler import (\n  auto,\n)", "from \\\n  latentc._src.compiler import (\n  auto,\n)"),
        ("import compiler.auto as z", "import latentc._src.compiler.auto as z"),
        ("import compiler", "from latentc._src import compiler"),
        (
            # Both names stay what they were: the package, and no other.
            "import os, compiler.auto",
            "import os; import latentc._src.compiler.auto as compiler; from latentc._src import compiler",
        ),
        (
            "é = 'é'; from compiler.auto import x; y = 'compiler.auto'",
            "é = 'é'; from latentc._src.compiler.auto import x; y = 'latentc._src.compiler.auto'",
        ),
        (
            "if TYPE_CHECKING:\n    from compiler.auto import x\ndef f():\n\tfrom bench import report\n",
            "if TYPE_CHECKING:\n    from latentc._src.compiler.auto import x\n"
            "def f():\n\tfrom latentc._src.bench import report\n",
        ),
        ('a = "compiler.passes.fold:FoldPass"', 'a = "latentc._src.compiler.passes.fold:FoldPass"'),
        ('a = "bench:report"', 'a = "latentc._src.bench:report"'),
        ("a = 'See: compiler.auto.compile'", "a = 'See: latentc._src.compiler.auto.compile'"),
        ('"""As `bench.report` has it."""', '"""As `latentc._src.bench.report` has it."""'),
        ('f"{x} bench.report: {y}"', 'f"{x} latentc._src.bench.report: {y}"'),
        ("f\"{x['bench.report']}\"", "f\"{x['latentc._src.bench.report']}\""),
        ('"a" f"b {bench.report}" " compiler.auto"', '"a" f"b {bench.report}" " latentc._src.compiler.auto"'),
        ('run("python -m bench --help")', 'run("python -m latentc._src.bench --help")'),
        ('[python, "-m", "bench", x]', '[python, "-m", "latentc._src.bench", x]'),
        ('importlib.import_module("bench")', 'importlib.import_module("latentc._src.bench")'),
        ('files("bench") / "x"', 'files("latentc._src.bench") / "x"'),
        ("x = 1\r\nimport compiler as c\r\n", "x = 1\r\nimport latentc._src.compiler as c\r\n"),
    ],
)
def test_names_of_modules_follow_them(before, after):
    assert moved(before) == after


@pytest.mark.parametrize(
    "text",
    [
        "from . import passes\nfrom .passes.fold import FoldPass",
        "import latentc\nfrom latentc.cli import main",
        "from compilers import x\nimport benchmark.report\nfrom my.bench import report",
        "compiler = bench.report  # compiler.auto",
        'a = "bench"',
        'COMMANDS = {"bench": ("latentc.cli:main", "bench: the words")}',
        'a = ("bench.json", "bench.report.html", "bench/report.py", "my.bench.report", "urn:bench:1", "bench.nothing")',
        'print("-m", "bench"); f("x", "bench")',
        'f"{bench.report} of {compiler.auto!r:>{bench.report}}"',
        'b"compiler.auto"',
    ],
)
def test_all_else_stays_as_it_is(text):
    assert moved(text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "def f():\n    from bench.project import demo",
            r"compiler\.auto, line 2: bench\.project is imported",
        ),
        ("from bench import project", r"bench\.project is imported, which is not in the wheel"),
        ("import bench.project.demo", "not in the wheel"),
        ('run("bench.project.demo")', "not in the wheel"),
        ('import_module(f"compiler.passes.{name}")', r"begins with 'compiler\.passes\.'; write it whole"),
        ('import_module("compiler." + name)', "write it whole"),
        ('a = "\\ncompiler.auto"', "cannot be told from its source"),
    ],
)
def test_what_cannot_be_followed_fails_the_build(text, words):
    with pytest.raises(CannotMove, match=words):
        moved(text)


def test_relative_imports_of_what_is_left_out_fail_too():
    with pytest.raises(CannotMove, match=r"bench\.project is imported"):
        moved("from . import project", "bench", is_package=True)
    with pytest.raises(CannotMove, match=r"bench\.project\.demo is imported"):
        moved("from .project.demo import main", "bench.report")


@pytest.fixture(scope="module")
def files() -> list[PurePosixPath]:
    """The project's files that a wheel is to hold, by hatchling's own choice."""
    from hatchling.builders.wheel import WheelBuilder

    chosen = WheelBuilder(str(ROOT)).recurse_selected_project_files()
    return [PurePosixPath(Path(file.relative_path).as_posix()) for file in chosen]


@pytest.mark.slow
def test_the_whole_source_can_be_moved(files):
    modules = hatch_build.modules_of(ROOT, files, WHEEL["packages"])
    assert {"compiler.build", "runtimes", "bench.reference"} <= set(modules.shipped)
    for path in files:
        if path.suffix == ".py":
            text = (ROOT / path).read_bytes()
            name = hatch_build.module_name(path)
            new = Source(text, name, path.name == "__init__.py", modules).moved()
            assert (new == text) == (b"_src" not in new)


def test_a_wheel_holds_no_test_and_nothing_that_was_generated(files):
    assert {path.parts[0] for path in files} == set(WHEEL["packages"])
    assert {path.suffix for path in files} == {".py", ".json", ".html", ".safetensors", ".txt", ".typed"}
    assert not [
        path for path in files if path.name.startswith(("test_", "conftest")) or "tests" in path.parts
    ]
    assert not [path for path in files if "__pycache__" in path.parts]


def test_what_is_excluded_is_there_and_left_out(files):
    for name in WHEEL["exclude"]:
        assert (ROOT / name.lstrip("/")).exists(), name
        assert not [path for path in files if f"/{path}".startswith(name)]
