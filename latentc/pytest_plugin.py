"""`pytest --latentc-golden DIR`: every golden snapshot of a folder is a test.

`DIR/NAME.graph` is checked against the model NAME: the folder `DIR/NAME` when there is one, the folder NAME of
`--latentc-models` when that is given, or else what `latentc` itself calls NAME.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_SUFFIX = ".graph"


class GraphChanged(Exception):
    """The graphs are not the golden ones; the text says where."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("latentc", "graphs of diffusers pipelines")
    group.addoption(
        "--latentc-golden", metavar="DIR", help="check every golden snapshot (*.graph) of this folder"
    )
    group.addoption(
        "--latentc-models", metavar="DIR", help="where the models are that the snapshots are named after"
    )
    group.addoption(
        "--latentc-allow", action="append", default=[], metavar="CLASS",
        help="a class of change that is no failure: names, order or metadata; may be repeated",
    )  # fmt: skip
    group.addoption("--latentc-update", action="store_true", help="accept what changed")


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    option = config.getoption("--latentc-golden")
    if option is None:
        return
    folder = Path(option)
    files = sorted(folder.glob(f"*{_SUFFIX}"))
    if not files:
        raise pytest.UsageError(f"--latentc-golden: {folder} holds no snapshot (*{_SUFFIX}).")
    items.extend(_items(session, config, files))


def _items(session: pytest.Session, config: pytest.Config, files: list[Path]) -> Iterator[pytest.Item]:
    models = config.getoption("--latentc-models")
    for file in files:
        beside = (Path(models) if models else file.parent) / file.stem
        yield Golden.from_parent(
            session,
            name=f"golden:{file.stem}",
            file=file,
            model=str(beside) if models or beside.is_dir() else file.stem,
        )


class Golden(pytest.Item):
    """One golden snapshot."""

    def __init__(self, *, file: Path, model: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.file = file
        self.model = model

    def runtest(self) -> None:
        from compiler.snapshot.diff import allowed
        from compiler.snapshot.golden_snapshot import check
        from compiler.snapshot.report import as_text

        changes = check(self.model, self.file, update=self.config.getoption("--latentc-update"))
        left = allowed(changes, self.config.getoption("--latentc-allow"))
        if left and not self.config.getoption("--latentc-update"):
            raise GraphChanged(as_text(left, len(changes) - len(left), self.file.name))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from artifacts.errors import LatentcError

        if isinstance(excinfo.value, (GraphChanged, LatentcError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.file, None, self.name
