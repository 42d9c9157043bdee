"""What is declared is what is used: dependencies, entry points, constraints, the packages of the wheel."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("latentc", "bench", "compiler", "runtimes", "targets", "artifacts")

# Module -> distribution, where the names differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cyclonedx": "cyclonedx-python-lib",
    "packageurl": "cyclonedx-python-lib",
    "onnx_ir": "onnx-ir",
    "huggingface_hub": "huggingface-hub",
    "lycoris": "lycoris-lora",
    "openvino_tokenizers": "openvino-tokenizers",
}

# Import a package of an extra where they need it, and say in a line what to install where it is not there.
OPTIONAL = (
    "artifacts/artifact_signature.py",
    "compiler/capture/adapters.py",
    "compiler/capture/lycoris_kinds.py",
    "compiler/evidence/runners.py",
    "compiler/origins/gguf_file.py",
    "compiler/origins/quantized_folder.py",
    "latentc/serving/",
    "latentc/bill_of_materials.py",
    "runtimes/media.py",
    "runtimes/weighted.py",
    "targets/openvino/nncf.py",
    "targets/openvino/tokenizers.py",
)

# Run by the Python of another project's environment, never by ours.
ELSEWHERE = (
    "bench/project/peers/draw.py",
    "bench/project/peers/peer_engines.py",
    "bench/project/peers/add_tokenizer_graphs.py",
)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(extra: bool = False) -> set[str]:
    """Names of the distributions that latentc requires, without its extras unless asked.

    As pyproject.toml has them: what is installed may be from before the last of them.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    found = [*project["dependencies"], *(extras if extra else ())]
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in found}


def imported() -> dict[str, str]:
    """Third-party module -> a file that imports it, anywhere in our packages."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            name = file.relative_to(ROOT).as_posix()
            if name in ELSEWHERE:
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    modules = [node.module or ""]
                for module in modules:
                    found.setdefault(module.split(".")[0], name)
    return {m: f for m, f in found.items() if m not in sys.stdlib_module_names and m not in PACKAGES}


def test_every_import_is_a_declared_dependency():
    # Everything else must do without extras: the bench has one of its own, only pytest loads its plugin, and int4
    # that follows the data says what to install.
    extras = ("bench/", "latentc/pytest_plugin.py", *OPTIONAL)
    missing = {
        m: f
        for m, f in imported().items()
        if normal(DISTRIBUTIONS.get(m, m)) not in declared(extra=f.startswith(extras))
    }
    assert not missing


def test_everything_declared_is_pinned():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {normal(line.split("==")[0]) for line in text.splitlines() if "==" in line and line[0] != "#"}
    assert declared(extra=True) - {"latentc"} <= pinned


def test_constraints_name_no_local_builds():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^torch==2\.13\.0$", text, re.MULTILINE)
    for line in text.splitlines():
        assert re.fullmatch(
            r"#.*|[\w.-]+==[\w.]+( ; (python_version|sys_platform) (<|>=|==) \"[\w.]+\")?", line
        ), line


@pytest.mark.parametrize("name", ["LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", ".ci/run"])
def test_files_that_a_stranger_looks_for(name):
    assert (ROOT / name).stat().st_size > 50


def test_packages_are_marked_as_typed():
    assert all((ROOT / package / "py.typed").exists() for package in PACKAGES)
    assert all((ROOT / package / "__init__.py").exists() for package in PACKAGES)


def test_the_built_in_model_is_found_by_its_name():
    from bench.reference import SHAPES_DIR
    from compiler.source import builtin_models

    (entry,) = metadata.entry_points(group="latentc.models", name="shapes")
    assert entry.load() == SHAPES_DIR
    assert "shapes" in builtin_models()
