"""Set-up shared by all tests: no network, and as few threads as the smallest machine has."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports these libraries: a test that reaches for the network is a broken test.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Of tests that run side by side (pytest -n), each gets its share of the cores.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

# Python looks for cycles among all objects that live, and libraries alone have a million: a sixth of the tests' time.
gc.set_threshold(20_000, 20, 20)


def pytest_collection_finish() -> None:
    """What libraries and tests have made by now stays to the end, and is not looked at again."""
    gc.collect()
    gc.freeze()


# A busy machine is no failure.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def checking_process() -> Iterator[object]:
    """The worker of `one_checker`."""
    from artifacts.worker import Worker, serving

    class Kept(Worker):
        """Ends with the session, and not with a compile; what ended by itself is started again."""

        def close(self, wait: bool = True) -> None:
            if self._process is not None and self._process.poll() is not None:
                self.end()

        def end(self) -> None:
            super().close()

    worker = Kept(serving("compiler.evidence.graph_measurement:checking"))
    yield worker
    worker.end()


@pytest.fixture(scope="module")
def one_checker(checking_process: object) -> Iterator[None]:
    """The compiles of a module are checked in the session's one process, which imports torch once.

    Not for tests of that process: of where it starts, how it ends and what memory it takes.
    """
    from compiler.evidence import graph_evidence

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_evidence, "Worker", lambda command: checking_process)
        yield
