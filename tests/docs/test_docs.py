"""The docs say what is so: command lines parse, links lead somewhere, help is the commands' own."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import click
import pytest

from latentc.cli import group
from tests.docs import write_cli
from tests.latentc.artifacts_made import made

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block in `language`."""
    return [
        (relative(page), text)
        for page in PAGES
        for found, text in FENCE.findall(page.read_text(encoding="utf-8"))
        if found == language
    ]


def shell_lines() -> list[tuple[str, str]]:
    """(page, command line) of every line in a shell block, and of every example in the commands' help."""
    lines = [(page, line) for page, text in blocks("sh") for line in text.splitlines()]
    for _, text in blocks("text"):
        lines += [("docs/cli.md", line) for line in text.splitlines() if re.match(r"\s+latentc \w", line)]
    return [(page, line.strip()) for page, line in lines if line.strip() and not line.strip().startswith("#")]


def parse(line: str) -> None:
    """Parses a `latentc` command line as click does, and runs nothing."""
    # With the group's own settings: click keeps a command's help option as the first context makes it.
    with click.Context(group, info_name="latentc", **group.context_settings) as context:
        name, command, rest = group.resolve_command(context, shlex.split(line, comments=True)[1:])
        assert name is not None and command is not None
        inner = command.make_context(name, rest, parent=context)
        if isinstance(command, click.Group):
            child, found, words = command.resolve_command(inner, rest)
            assert child is not None and found is not None
            found.make_context(child, words, parent=inner).close()
        inner.close()


@pytest.mark.parametrize(("page", "line"), shell_lines(), ids=lambda value: value)
def test_every_command_line_parses(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a prompt\n", encoding="utf-8")
    (tmp_path / "sdxl").mkdir()
    words = shlex.split(line, comments=True)
    program = Path(words[0]).name
    if program == "latentc":
        if "--rebuild" in words:  # Its options are those of the artifact's target.
            made(tmp_path / words[2], target="tensorrt")
        parse(line)
    elif program == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "pytest":
        plugin = (ROOT / "latentc" / "pytest_plugin.py").read_text(encoding="utf-8")
        assert all(f'"{word}"' in plugin for word in words if word.startswith("--"))
    elif program == "python" and words[1] == "-m":
        assert words[2] in ("venv", "pip") or importlib.util.find_spec(words[2]) is not None
    else:
        assert program == "lint-imports", f"{page} shows a command that nobody checks: {line}"


def test_a_wrong_command_line_would_be_seen():
    with pytest.raises(click.UsageError):
        parse("latentc compile shapes out --tarqet openvino")
    with pytest.raises(click.UsageError):
        parse("latentc benchmark out")
    assert len(shell_lines()) > 10


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python_examples_compile_and_their_imports_exist(page, text):
    for node in ast.walk(ast.parse(text, page)):
        if isinstance(node, ast.Import):
            assert all(importlib.util.find_spec(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "latentc"
        ):
            import latentc

            assert node.attr in latentc.__all__


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), f"{relative(page)}: {link}"
        if anchor:
            assert anchor in anchors(to), f"{relative(page)}: {link}"


def test_cli_page_is_the_commands_own_help():
    assert write_cli.PAGE.read_text(encoding="utf-8") == write_cli.page(), "run: make docs"


def test_every_module_named_in_a_table_is_there():
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`python -m ([\w.]+)", page.read_text(encoding="utf-8"))
    }
    assert "bench.project.demo" in named
    for name in named:
        assert importlib.util.find_spec(name) is not None, name


def test_every_page_is_linked_from_the_readme():
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    for page in (ROOT / "docs").glob("*.md"):
        assert any(link.partition("#")[0] == relative(page) for link in linked), relative(page)


def test_the_architecture_page_has_every_folder():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = [file for package in packages for file in (ROOT / package).rglob("*.py")]
    rows = re.findall(r"^\| `([\w/]+)/` \|", ARCHITECTURE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {relative(file.parent) for file in files} <= set(rows)
    assert all((ROOT / row).is_dir() for row in rows)


def test_the_architecture_page_says_where_things_are():
    page = ARCHITECTURE.read_text(encoding="utf-8")
    rows = re.findall(r"\]\(\.\./([\w/]+\.\w+)\): (.*) \|$", page, re.MULTILINE)
    assert len(rows) > 20
    for file, names in rows:
        text = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            there = re.search(rf"^ *((def|class) {name}\b|{name}(: .*)? ?=)", text, re.MULTILINE)
            assert there, f"{file} has no '{name}'"


def test_every_target_is_in_the_readme():
    from targets.target_table import TARGETS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in TARGETS)
