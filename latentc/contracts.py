"""What another package imports to add a target: the contracts and what they are made of.

It has these names from a checkout and from a wheel alike; the packages behind them lie elsewhere in a wheel.
"""

from __future__ import annotations

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import Built, DimRange, TensorSpec
from artifacts.progress import Event, Progress, silent
from runtimes.sessions.session_contract import (
    BringsFormat,
    Contents,
    Device,
    ExplainsDevice,
    GraphFormat,
    GraphNode,
    OpensLater,
    OpensParts,
    Releases,
    ReplacesFile,
    RunsCode,
    Session,
    SessionFactory,
    Structure,
)
from targets.target_contract import Availability, Context, Lowered, Rebuild, Requirements, Rewrite, Target

__all__ = [
    "Availability",
    "BringsFormat",
    "Built",
    "Contents",
    "Context",
    "Device",
    "DimRange",
    "Event",
    "ExplainsDevice",
    "GraphFormat",
    "GraphNode",
    "LatentcError",
    "Lowered",
    "OpensLater",
    "OpensParts",
    "Progress",
    "Rebuild",
    "Releases",
    "ReplacesFile",
    "Requirements",
    "Rewrite",
    "RunsCode",
    "Session",
    "SessionFactory",
    "Structure",
    "Target",
    "TensorSpec",
    "UsageError",
    "silent",
]
