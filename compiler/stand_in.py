"""A target-neutral graph on the target that stands in for all others: what a graph computes, without one chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from artifacts.temporary import private_folder
from runtimes.compute import WIDE, host_of
from runtimes.sessions import session_table as sessions
from runtimes.sessions.session_contract import Session
from targets import target_table as targets
from targets.target_contract import Context


@contextmanager
def opened(model: ir.Model) -> Iterator[Session]:
    """A session of the graph in fp32 on the host's processor.

    Args:
        model: it is lowered, and so changed: give a copy.
    """
    target, factory = targets.get(targets.STAND_IN), sessions.get(targets.STAND_IN)
    with private_folder() as folder:
        lowered = target.lower(model, target.options(), folder, Context())
        session = factory.open(folder / lowered.model_file, host_of(factory), WIDE, None)
        try:
            yield session
        finally:
            session.close()
