"""One server of a pretended engine for all tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.pretended import Running, running


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    with running() as server:
        yield server
