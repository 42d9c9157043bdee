"""Two graphs at a time: one is written, checked and hashed in a thread while the next one is exported."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from threading import Thread
from types import TracebackType

from artifacts.progress import Event, Progress
from artifacts.workspace import Building
from compiler.lowering.graph_job import GraphJob, Lowered


class _Stopped(Exception):
    """Raised in the writing thread when nobody wants its graph any more."""


def _compute_alone() -> None:
    """PyTorch computes in this thread alone: another one exports, and threads that wait for their share of a small
    product spin, which takes more of a processor than the product."""
    import torch

    count = torch.get_num_threads()
    torch.set_num_threads(1)
    # Threads begin with the number that was set last in any; a thread that ends puts it back.
    other = Thread(target=torch.set_num_threads, args=(count,))
    other.start()
    other.join()


class BackgroundWriter:
    """Writes, checks and hashes one graph in a thread while the next one is exported: two graphs at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stopping = False
        self._pool = ThreadPoolExecutor(1, "writing", _compute_alone)
        self._written: Future[None] | None = None

    def write(self, job: GraphJob, building: Building, lowered: Lowered, part: ExitStack) -> None:
        """Waits for the graph before this one, and raises what it raised.

        Args:
            part: what is open for this graph; it is closed when the graph is finished.
        """
        self._wait()
        mine = part.pop_all()

        def finish() -> None:
            with mine:
                job.write(building, lowered)

        self._written = self._pool.submit(finish)

    def report(self, event: Event) -> None:
        """The jobs' progress. After an error or a Ctrl-C it raises, which ends the work wherever it is."""
        if self._stopping:
            raise _Stopped
        self._progress(event)

    def _wait(self) -> None:
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Also after an error or a Ctrl-C: the work folder must not be left while somebody writes to it.
        self._stopping = error is not None
        self._pool.shutdown()
        if error is None:
            self._wait()
