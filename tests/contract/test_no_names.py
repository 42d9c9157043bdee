"""No scheme and no target is known by its name outside its own files: a contract or a property decides.

A name may stand in the two files of a target, in the one of a scheme, and in the tables that find them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from compiler.quantize.scheme_table import SCHEMES
from runtimes.sessions.session_table import SESSIONS
from targets.target_table import STAND_IN, TARGETS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("compiler", "runtimes", "targets/graph", "latentc", "artifacts")

OWN = {
    **{name: {path.partition(":")[0]} for name, path in SCHEMES.items()},
    **{name: {TARGETS[name].partition(":")[0], SESSIONS[name].partition(":")[0]} for name in TARGETS},
}
TABLES = {"compiler.quantize.scheme_table", "runtimes.sessions.session_table", "targets.target_table"}

MENTION = re.compile(rf"(?<![\w-])({'|'.join(sorted(map(re.escape, OWN), reverse=True))})(?![\w-])")
"""A name as a word of a text."""

ELSEWHERE = {
    # Number formats of the graph toolkit and of ONNX Runtime, and one of its devices, are called the same; a package of
    # Python's is.
    "targets.graph.nf4_nodes": {"nf4"},
    "runtimes.sessions.onnxruntime": {"directml", "int8", "int4"},
    "runtimes.sessions.openvino_graph": {"openvino"},
    "runtimes.sessions.directml": {"onnxruntime"},
}
"""Module -> names that it says and that are no scheme's or target's there."""

ASKING = {
    "startswith",
    "endswith",
    "removeprefix",
    "removesuffix",
    "partition",
    "get",
    "pop",
    "index",
    "count",
}
"""Methods of strings and tables by which a name could be asked for."""


@lru_cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    return tuple(parsed())


def parsed() -> Iterator[tuple[str, ast.Module]]:
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), ast.parse(file.read_text(encoding="utf-8"))


def said(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def conditionals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The texts that something is compared with, or that a table is asked for."""
    for node in ast.walk(tree):
        asks = (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKING
        )
        if asks or isinstance(node, (ast.Compare, ast.Subscript, ast.MatchValue)):
            yield from said(node)


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def offences(module: str, tree: ast.Module) -> Iterator[str]:
    own = {name for name, files in OWN.items() if module in files}
    allowed = own | ELSEWHERE.get(module, set())
    if own & set(SCHEMES):
        # What weights take that it does not fit.
        allowed |= {
            node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "fallback"
            and isinstance(node.value, ast.Constant)
        }
    if module not in TABLES:
        for line, text in said(tree):
            if text in OWN.keys() - allowed:
                yield f"{module}:{line} says '{text}'"
    for line, text in conditionals(tree):
        for name in set(MENTION.findall(text)) - own:
            yield f"{module}:{line} asks for '{name}'"
    # Sessions of one vendor's runtime may share code.
    for line, path in imported(tree):
        for name, place in (SCHEMES | TARGETS).items():
            file = place.partition(":")[0]
            if name not in own and (path == file or path.startswith(f"{file}.")):
                yield f"{module}:{line} imports '{name}'"
        for name, place in TARGETS.items():
            folder = place.partition(":")[0].rpartition(".")[0]
            session = SESSIONS[name].partition(":")[0]  # Its further files begin with its name.
            if path.startswith(f"{folder}.") and not module.startswith(session):
                yield f"{module}:{line} imports of the folder of '{name}'"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_decides(folder):
    prefix = folder.replace("/", ".")
    texts = [
        text for module, tree in modules() if module.startswith(prefix) for text in offences(module, tree)
    ]
    assert not texts


def test_the_stand_in_is_a_target():
    assert STAND_IN in TARGETS


@pytest.mark.parametrize(
    "source",
    [
        'if scheme == "int8": pass',
        'if scheme in ("fp16", "nf4"): pass',
        'eight = scheme.startswith("int8")',
        'LIMIT = {"int4": 0.6}\nlimit = LIMIT[scheme]',
        'ACTIVATIONS = "int8-activations"\nif scheme == ACTIVATIONS: pass',
        'if label.partition(":")[0] == "int4": pass',
        'if label == "int4:group=64": pass',
        'match target:\n    case "openvino": pass',
        "from compiler.quantize import int4",
        "from compiler.quantize.int4 import SCHEME",
        "import targets.tensorrt.target",
        "from targets.tensorrt.engine_build import dtype_name",
    ],
)
def test_a_planted_one_is_seen(source):
    assert list(offences("compiler.planted", ast.parse(source)))
