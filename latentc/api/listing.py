"""What can be compiled for, and what is missing here: `targets`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from artifacts.precisions import PRECISIONS

if TYPE_CHECKING:
    from runtimes.sessions.session_contract import Device
    from targets.target_contract import Target


@dataclass(frozen=True)
class OptionInfo:
    """One of a target's own options: its name, its default, and what it does."""

    name: str
    default: Any
    help: str


@dataclass(frozen=True)
class TargetInfo:
    """A target that can be compiled for.

    Attributes:
        summary: what it is.
        available: whether it can be built here.
        reason, install: why not, and the command that installs what is missing; empty where it can.
        precisions: in which it takes weights.
        dynamic_shapes: whether sizes may stay ranges.
        opset: the lowest and the highest ONNX opset that it takes.
        options: its own.
        devices: name of each device that runs it here -> what it is.
        computes: name of each device -> the types that it computes in, the default first.
        toolchain: package -> version of what builds it here.
    """

    name: str
    summary: str
    available: bool
    reason: str
    install: str
    precisions: tuple[str, ...]
    dynamic_shapes: bool
    opset: tuple[int, int]
    options: tuple[OptionInfo, ...]
    devices: Mapping[str, str]
    computes: Mapping[str, tuple[str, ...]]
    toolchain: Mapping[str, str]


def targets() -> tuple[TargetInfo, ...]:
    """Every target, as `latentc targets` lists them: what it is, and what is missing for it here."""
    from targets import target_table

    return tuple(_target(name, target_table.get(name)) for name in target_table.names())


def _target(name: str, target: Target) -> TargetInfo:
    availability = target.available()
    devices = _devices(name) if availability.ok else ()
    return TargetInfo(
        name=name,
        summary=target.summary,
        available=availability.ok,
        reason=availability.reason,
        install=availability.install,
        precisions=tuple(sorted(target.requirements.precisions, key=PRECISIONS.index)),
        dynamic_shapes=target.requirements.dynamic_shapes,
        opset=target.requirements.opset,
        options=options_of(target.options),
        devices={device.name: device.description for device in devices},
        computes={device.name: device.computes for device in devices},
        toolchain=dict(target.toolchain()) if availability.ok else {},
    )


def _devices(name: str) -> tuple[Device, ...]:
    from runtimes.sessions import session_table

    # A target can be built for devices that nothing here runs.
    return session_table.get(name).devices() if name in session_table.names() else ()


def options_of(options: type[Any]) -> tuple[OptionInfo, ...]:
    """Name, default and help of each option of a target's dataclass."""
    return tuple(
        OptionInfo(field.name, field.default, _help(options, field.name))
        for field in dataclasses.fields(options)
    )


def _help(options: type[Any], name: str) -> str:
    """What the class's docstring says of one attribute: its line "name: ..." and the deeper ones after it."""
    lines: list[str] = []
    depth = -1
    for line in (inspect.getdoc(options) or "").splitlines():
        indent = len(line) - len(line.lstrip())
        if lines and (indent <= depth or not line.strip()):
            break
        if lines:
            lines.append(line.strip())
        elif line.strip().startswith(f"{name}:"):
            depth = indent
            lines.append(line.strip().partition(":")[2].strip())
    return " ".join(lines)
