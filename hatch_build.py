"""How a wheel is made: every package goes under `latentc`, so that site-packages gets one name and no `bench`.

The folders at the top of the project are import packages. In a wheel `compiler/` becomes `latentc/_src/compiler/`,
and so on, and what names a module of ours follows it:

- imports, absolute ones; relative ones stay true as they are;
- strings, wherever a word of one is the dotted name of a module that there is, alone ("compiler.road"), with an
  object ("targets.openvino:TARGET", "compiler.auto.compile") or in a command ("python -m bench.picture_grid");
- the name of a package alone ("bench") only where it can be nothing else: behind `-m`, and as the first argument
  of `import_module` and its like. Elsewhere it is a word;
- the entry points in the metadata.

Positions come from the syntax tree, and the tree of the new text is compared with the old one's: nothing but names
of modules may have changed. What cannot be followed (a module's name that is put together while the program runs, an
import of a module that the wheel leaves out) fails the build. Checkouts and editable installs are not touched.
"""

# Annotations are evaluated: hatchling runs this file as no module that dataclasses could look texts up in.
import ast
import re
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOME = "latentc"
ROOM = f"{HOME}._src"

# Functions whose first argument is the name of a module or a package.
_TAKE_A_MODULE = frozenset(
    "import_module __import__ find_spec run_module files get_data getLogger iter_entry_points".split()
)


class CannotMove(Exception):
    """The source says something that would no longer hold in a wheel."""


@dataclass(frozen=True)
class Modules:
    """The project's modules by dotted name.

    Attributes:
        shipped: module -> the names that it binds, for each module of the wheel.
        left_out: modules that the project has and the wheel does not.
        moved: the packages at the top that go under `ROOM`.
    """

    shipped: dict[str, frozenset[str]]
    left_out: frozenset[str]
    moved: frozenset[str]

    @cached_property
    def _word(self) -> re.Pattern[str]:
        packages = "|".join(sorted(self.moved))
        return re.compile(
            rf"(?<![\w./:-])(?P<module>(?:{packages})(?:\.[A-Za-z_]\w*)*)(?P<object>:[A-Za-z_][\w.]*)?"
            r"(?![\w/-]|[.:]\w)"
        )

    def is_ours(self, name: str) -> bool:
        """Whether the dotted `name` lies in a package that moves."""
        return name.partition(".")[0] in self.moved

    def names_module(self, name: str, attribute: str) -> bool:
        """Whether `name`, or `name:attribute`, is a module or an object of one; a package alone is a word."""
        if name in self.shipped and "." in name:
            return True
        module, _, last = name.rpartition(".") if not attribute else (name, "", attribute[1:].split(".")[0])
        while module:
            if module in self.shipped:
                return last in self.shipped[module]
            module, _, last = module.rpartition(".")
        return False

    def in_words(self, text: str) -> Iterator[re.Match[str]]:
        """Where `text` says the name of a module that moves."""
        for match in self._word.finditer(text):
            name, attribute = match["module"], match["object"] or ""
            run = name in self.shipped and text[: match.start()].endswith("-m ")
            if run or self.names_module(name, attribute):
                yield match

    def in_text(self, text: str) -> str:
        """`text` with every name of a module that moves replaced by the name that it has in a wheel."""
        for match in reversed(list(self.in_words(text))):
            text = f"{text[: match.start()]}{ROOM}.{text[match.start() :]}"
        return text

    def prefix_in(self, text: str) -> bool:
        """Whether `text` ends where a module's name would go on: "compiler.passes."."""
        match = re.search(r"(?<![\w./:-])([A-Za-z_][\w.]*)\.$", text)
        return bool(match) and match[1] in self.shipped and self.is_ours(match[1])


@dataclass(frozen=True)
class Edit:
    """Bytes `start` to `end` become `text`."""

    start: int
    end: int
    text: str


class Source:
    """One file's text with its syntax tree."""

    def __init__(self, text: bytes, module: str, is_package: bool, modules: Modules) -> None:
        self.text = text
        self.module = module
        self.package = module if is_package else module.rpartition(".")[0]
        self.modules = modules
        self.tree = ast.parse(text)
        lines = text.split(b"\n")
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._packages = {id(node) for node in _packages_alone(self.tree, modules.moved)}

    def moved(self) -> bytes:
        """The text as a wheel has it.

        Raises:
            CannotMove: something in it cannot be followed; the message says where.
        """
        text = self.text
        for edit in sorted(self._edits(self.tree), key=lambda edit: edit.start, reverse=True):
            text = text[: edit.start] + edit.text.encode() + text[edit.end :]
        expected = ast.fix_missing_locations(_Moved(self).visit(ast.parse(self.text)))
        if ast.dump(ast.parse(text)) != ast.dump(expected):
            for old, new in zip(_strings(expected), _strings(ast.parse(text)), strict=False):
                if old != new:
                    raise CannotMove(
                        f"{self.module}: the name of a module in {new!r} cannot be told from its source."
                    )
            raise CannotMove(f"{self.module}: more than names of modules would change.")
        return text

    def _edits(self, node: ast.AST) -> Iterator[Edit]:
        if isinstance(node, ast.Import):
            self._check(node, [alias.name for alias in node.names])
            if new := self.new_import(node):
                yield Edit(*self._span(node), new)
        elif isinstance(node, ast.ImportFrom):
            base = self._base(node)
            self._check(node, [base, *(f"{base}.{alias.name}" for alias in node.names)])
            if not node.level and self.modules.is_ours(base):
                start, end = self._span(node)
                name = re.match(rb"from(?:\s|\\)+", self.text[start:end])
                assert name is not None
                yield Edit(start + name.end(), start + name.end(), f"{ROOM}.")
        elif isinstance(node, (ast.Constant, ast.JoinedStr)):
            yield from self._string_edits(node)
        else:
            for child in ast.iter_child_nodes(node):
                yield from self._edits(child)

    def _string_edits(self, node: ast.Constant | ast.JoinedStr) -> Iterator[Edit]:
        """Strings are changed in their source; those inside an f-string have no positions before Python 3.12."""
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        for part in parts:
            if not (isinstance(part, ast.Constant) and isinstance(part.value, str)):
                continue
            if self.modules.prefix_in(part.value) and (part is not parts[-1] or part.value.count(" ") == 0):
                raise self._cannot(node, f"the name of a module begins with {part.value!r}; write it whole")
            if part.value in self.modules.left_out and "." in part.value:
                raise self._cannot(node, f"{part.value} is not in the wheel")
        if isinstance(node, ast.Constant) and not isinstance(node.value, str):
            return
        start, end = self._span(node)
        old = self.text[start:end].decode()
        if id(node) in self._packages:
            yield Edit(start, end, old.replace(node.value, f"{ROOM}.{node.value}"))
            return
        # From the end, so that what comes before keeps its place.
        new = old
        for match in reversed(list(self.modules.in_words(old))):
            tried = f"{new[: match.start()]}{ROOM}.{new[match.start() :]}"
            # Code between an f-string's braces may well say `bench.name` of a variable.
            if isinstance(node, ast.Constant) or _code(tried) == _code(old):
                new = tried
        if new != old:
            yield Edit(start, end, new)

    def new_import(self, node: ast.Import) -> str | None:
        """`import a.b` binds the name `a`, which must stay what the code calls the package."""
        if not any(self.modules.is_ours(alias.name) for alias in node.names):
            return None
        statements = []
        for alias in node.names:
            package, _, rest = alias.name.partition(".")
            if alias.asname or not self.modules.is_ours(alias.name):
                where = f"{ROOM}." if self.modules.is_ours(alias.name) else ""
                statements.append(
                    f"import {where}{alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                )
                continue
            if rest:
                statements.append(f"import {ROOM}.{alias.name} as {package}")
            statements.append(f"from {ROOM} import {package}")
        return "; ".join(statements)

    def _base(self, node: ast.ImportFrom) -> str:
        """The module that `node` imports from, absolute."""
        if not node.level:
            return node.module or ""
        package = self.package.split(".")
        return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])

    def _check(self, node: ast.stmt, names: list[str]) -> None:
        for name in names:
            if name in self.modules.left_out:
                raise self._cannot(node, f"{name} is imported, which is not in the wheel")

    def _cannot(self, node: Any, why: str) -> CannotMove:
        return CannotMove(f"{self.module}, line {node.lineno}: {why}.")

    def _span(self, node: Any) -> tuple[int, int]:
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )


class _Moved(ast.NodeTransformer):
    """What the new text's syntax tree has to be."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.packages: set[int] = set()

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self.packages = {id(n) for n in _packages_alone(node, self.source.modules.moved)}
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> Any:
        new = self.source.new_import(node)
        return node if new is None else ast.parse(new).body

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if not node.level and self.source.modules.is_ours(node.module or ""):
            node.module = f"{ROOM}.{node.module}"
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if id(node) in self.packages:
            node.value = f"{ROOM}.{node.value}"
        elif isinstance(node.value, str):
            node.value = self.source.modules.in_text(node.value)
        return node


def _packages_alone(tree: ast.AST, packages: Collection[str]) -> Iterator[ast.Constant]:
    """Strings that are a package's name alone, in places where only a module can be meant."""

    def named(node: ast.AST) -> bool:
        return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in packages

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and named(node.args[0]):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in _TAKE_A_MODULE:
                yield node.args[0]  # type: ignore[misc]
        elif isinstance(node, (ast.List, ast.Tuple)):
            for before, item in zip(node.elts, node.elts[1:], strict=False):
                if isinstance(before, ast.Constant) and before.value == "-m" and named(item):
                    yield item  # type: ignore[misc]


def _code(string: str) -> str:
    """What an f-string's source does, whatever its words are."""
    tree = ast.parse(f"({string}\n)")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def _strings(tree: ast.AST) -> list[str]:
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def bound(tree: ast.Module) -> frozenset[str]:
    """The names that a module's own statements bind, those under `if` and `try` included."""
    names: set[str] = set()
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            pending.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def module_name(path: PurePosixPath) -> str:
    """ "compiler.passes" for compiler/passes/__init__.py."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(root: Path, files: Collection[PurePosixPath], packages: Collection[str]) -> Modules:
    """The modules of a project.

    Args:
        root: the project.
        files: those that the wheel is to hold, from `root`.
        packages: the packages at the top, `HOME` among them.
    """
    code = {module_name(path): root / path for path in files if path.suffix == ".py"}
    present = {
        module_name(PurePosixPath(file.relative_to(root).as_posix()))
        for package in packages
        for file in (root / package).rglob("*.py")
    }
    return Modules(
        {name: bound(ast.parse(file.read_bytes())) for name, file in code.items()},
        frozenset(present - set(code)),
        frozenset(packages) - {HOME},
    )


def place(path: PurePosixPath) -> PurePosixPath:
    """Where a file of the project lies in the wheel."""
    return path if path.parts[0] == HOME else PurePosixPath(*ROOM.split("."), *path.parts)


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the rewritten files in place of hatchling's own selection, whose settings it keeps."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "standard":
            return
        config = self.build_config
        packages = [PurePosixPath(package).name for package in config.packages]
        files = [
            PurePosixPath(Path(file.relative_path).as_posix())
            for file in config.builder.recurse_selected_project_files()
        ]
        modules = modules_of(Path(self.root), files, packages)
        room = PurePosixPath(*ROOM.split("."))
        if ROOM in modules.shipped or (Path(self.root) / room).exists():
            raise CannotMove(f"{room} is where a wheel keeps the packages; the project must not have it.")

        self._scratch = tempfile.TemporaryDirectory(prefix="latentc-wheel-")
        contents: dict[PurePosixPath, Path] = {}
        for path in files:
            contents[place(path)] = file = Path(self.root) / path
            if path.suffix == ".py":
                source = Source(file.read_bytes(), module_name(path), path.name == "__init__.py", modules)
                contents[place(path)] = self._write(place(path), source.moved())
        init = room / "__init__.py"
        contents[init] = self._write(
            init, b'"""The packages behind `latentc`; what is public is `latentc` itself."""\n'
        )

        for target in sorted(contents):
            build_data["force_include"][str(contents[target])] = str(target)
        for group in (self.metadata.core.scripts, *self.metadata.core.entry_points.values()):
            group.update({name: modules.in_text(value) for name, value in group.items()})
        config.set_exclude_all()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version == "standard":
            self._scratch.cleanup()

    def _write(self, path: PurePosixPath, text: bytes) -> Path:
        file = Path(self._scratch.name) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text)
        return file
