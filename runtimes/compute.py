"""What a graph is computed in: what was asked for, or what its device and its evidence decide.

How weights are stored is the artifact's (`GraphRecord.precision`); the type that products are made in is decided
where the graph runs. Both are written "fp32", "fp16" or "bf16".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from artifacts.errors import UsageError
from artifacts.evidence_records import Evidence
from artifacts.manifest import GraphRecord
from artifacts.precisions import PRECISIONS
from runtimes.sessions.session_contract import Device, SessionFactory

AUTO = "auto"
WIDE = "fp32"


def device_of(factory: SessionFactory, name: str) -> Device | None:
    """The device that a session opens for `name` ("auto": the first); None where there is no such device."""
    devices = factory.devices()
    return next((device for device in devices if name.lower() in (AUTO, device.name)), None)


def host_of(factory: SessionFactory) -> str:
    """The name of the device that computes with the host's own processor; "auto" where there is none."""
    return next((device.name for device in factory.devices() if device.on_host), AUTO)


def natively(device: Device, stored: str) -> tuple[str, ...]:
    """The types that `device` has for a graph, what it computes in by default first.

    Args:
        stored: the type of the graph's weights.
    """
    if not device.computes:
        return (stored,)
    # Who stored weights in fp32 wants all of it.
    return tuple(sorted(device.computes, key=lambda kind: not (kind == stored == WIDE)))


def usual(factory: SessionFactory, name: str, stored: str) -> str:
    """What the device of that name computes a graph in by default, before anything was measured of the graph."""
    device = device_of(factory, name)
    return stored if device is None else natively(device, stored)[0]


def default(types: Sequence[str], evidence: Iterable[Evidence], chosen: str = AUTO) -> str:
    """The type of "auto": the first of `natively`, or fp32 where that one was measured to break the graph.

    Args:
        chosen: a type that was chosen for speed (`Manifest.speed`), which comes first where the device has it.
    """
    types = sorted(types, key=lambda kind: kind != chosen)
    failed = {measurement.compute for measurement in evidence if measurement.broken}
    return WIDE if types[0] in failed and WIDE in types else types[0]


def worth_measuring(types: Sequence[str]) -> tuple[str, ...]:
    """Of `natively`: fp32 where the device has it, and the type that runs by default."""
    return tuple(dict.fromkeys([*(kind for kind in types if kind == WIDE), types[0]]))


def types_to_check(device: Device | None, graphs: Iterable[GraphRecord]) -> dict[str, str]:
    """What pictures of these graphs are drawn in to compare them -> what to ask the graphs for.

    That is fp32 first, where the device has it for all of them, and the type of "auto" where that is another.

    Args:
        device: None where there is none, which only opening the graphs says.
    """
    graphs = tuple(graphs)
    narrow = {graph.precision if device is None else choose(AUTO, device, graph) for graph in graphs} - {WIDE}
    wide = device is not None and all(WIDE in natively(device, graph.precision) for graph in graphs)
    types = {WIDE: WIDE} if wide else {}
    return types | {min(narrow): AUTO} if narrow else types or {WIDE: AUTO}


def check_requested(requested: str) -> None:
    """Raises UsageError unless `requested` is "auto" or a type."""
    if requested not in (AUTO, *PRECISIONS):
        raise UsageError(
            f"there is no type '{requested}' to compute in (there are: {', '.join((AUTO, *PRECISIONS))})."
        )


def choose(requested: str, device: Device, graph: GraphRecord, chosen: str = AUTO) -> str:
    """The type that `graph` is computed in on `device`.

    Args:
        requested: a type, or "auto".
        chosen: as of `default`.

    Raises:
        UsageError: the device does not have the type that was asked for.
    """
    types = natively(device, graph.precision)
    if requested == AUTO:
        return default(types, graph.evidence, chosen)
    if requested not in types:
        why = "" if device.computes else ", the type that it was compiled in"
        raise UsageError(
            f"'{graph.folder}' cannot be computed in {requested} on device '{device.name}' here: it has "
            f"{' and '.join(types)}{why}.",
            f"Use --compute {types[0]}, or leave it out",
        )
    return requested


def broken(graph: GraphRecord, compute: str) -> str:
    """How the type was measured to fail the graph; empty where it was not."""
    return next(
        (evidence.broken for evidence in graph.evidence if evidence.compute == compute and evidence.broken),
        "",
    )


def covered(graph: GraphRecord, compute: str, device: Device) -> bool:
    """Whether the graph was measured in this type on such a device ("gpu.1" is one as "gpu.0" is)."""
    kind = device.name.partition(".")[0]
    return any(
        evidence.compute == compute
        and evidence.check != "not measured"
        and evidence.device.partition(".")[0] == kind
        for evidence in graph.evidence
    )


def summary(computes: Mapping[str, str]) -> str:
    """Graph folder -> type as people read it: "bf16", "bf16 (vae_decoder: fp32)"."""
    kinds = list(computes.values())
    if not kinds:
        return "unknown"
    # The type of most graphs; of the first of them where two are equal.
    usual = max(dict.fromkeys(kinds), key=kinds.count)
    others = [f"{folder}: {kind}" for folder, kind in computes.items() if kind != usual]
    return usual + (f" ({', '.join(others)})" if others else "")
