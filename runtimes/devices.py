"""Which device each graph runs on: what was asked for, or the next of its target where that one refused the graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property

from artifacts.error_text import first_lines
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import Manifest
from artifacts.progress import Event, Progress, silent
from runtimes.compute import AUTO, WIDE, broken, choose, covered, summary
from runtimes.sessions.common import choose as check_name
from runtimes.sessions.session_contract import Device, ExplainsDevice, NotStarted, SessionFactory

RequestedDevices = str | Mapping[str, str]
"""A device for all graphs, or one for each component; as a text also "unet=gpu,vae=cpu"."""

EXAMPLE = "For instance: --device gpu, or --device unet=gpu,vae=cpu"


def parse_devices(requested: RequestedDevices) -> dict[str, str]:
    """Component -> name of a device; under "" that of all others, "auto" where none is named.

    Raises:
        UsageError: the text is neither a device nor pairs COMPONENT=DEVICE, or names a component twice.
    """
    if not isinstance(requested, str):
        return {"": AUTO, **requested}
    devices: dict[str, str] = {}
    for item in requested.split(","):
        name, equals, device = (part.strip() for part in item.rpartition("="))
        if not device or (equals and not name) or "=" in name:
            raise UsageError(
                f"--device takes a device, or a device for each component; found '{requested}'.", EXAMPLE
            )
        if name in devices:
            raise UsageError(f"--device names {name or 'a device for all'} twice: '{requested}'.", EXAMPLE)
        devices[name] = device
    return {"": AUTO, **devices}


def components_of(manifest: Manifest) -> dict[str, str]:
    """Graph folder -> name of the component that it answers for."""
    return {method.graph: part.name for part in manifest.components for method in part.methods}


def devices_of(requested: RequestedDevices, manifest: Manifest) -> dict[str, str]:
    """Graph folder -> name of a device, or "auto"; a graph's own folder counts before its component.

    Raises:
        UsageError: the artifact has no such component.
    """
    devices, components = parse_devices(requested), components_of(manifest)
    graphs = [graph.folder for graph in manifest.graphs]
    names = dict.fromkeys([*components.values(), *graphs])
    for name in devices:
        if name and name not in names:
            raise UsageError(
                f"the artifact has no component '{name}' to place on a device (it has: {', '.join(names)})."
            )
    return {
        graph: devices.get(graph, devices.get(components.get(graph, ""), devices[""])) for graph in graphs
    }


class Placement:
    """The device of each graph, and the type that it is computed in there."""

    def __init__(
        self,
        factory: SessionFactory,
        manifest: Manifest,
        requested: RequestedDevices,
        compute: str,
        strict: bool,
        progress: Progress,
    ) -> None:
        """
        Args:
            compute: a type, or "auto".
            strict: a device that refuses a graph is an error, and no other takes its place.
            progress: gets a note, once for each component and device, of a device that refused; where it is silent,
                Python warns.

        Raises:
            UsageError: there is no such component, device or type, or the device does not have the type.
        """
        self._factory = factory
        self._records = {graph.folder: graph for graph in manifest.graphs}
        self._components = components_of(manifest)
        self._requested = devices_of(requested, manifest)  # graph folder -> name of a device, or "auto"
        self._compute = compute
        self._chosen = AUTO if manifest.speed is None else manifest.speed.compute
        self._strict = strict
        self._progress = progress
        self._moved: dict[str, Device] = {}
        self._refused: dict[str, set[str]] = {}
        self._lines: dict[tuple[str, str], str] = {}
        named = dict.fromkeys(name for name in self._requested.values() if name.lower() != AUTO)
        if named and self._present:
            for name in named:
                self._check(name)
        if compute != AUTO:
            _ = self.computes

    def _check(self, name: str) -> None:
        """Raises UsageError unless the target has the device here."""
        if isinstance(self._factory, ExplainsDevice):
            self._factory.check_device(name)
        check_name(name, self._present, self._factory.target, "")

    @cached_property
    def _present(self) -> tuple[Device, ...]:
        return self._factory.devices()

    def requested(self, graph: str) -> str:
        """The name of the device that was asked for, or "auto"."""
        return self._requested[graph]

    def is_auto(self, graph: str) -> bool:
        """Whether no device was asked for."""
        return self._requested[graph].lower() == AUTO

    def device(self, graph: str) -> Device | None:
        """The device that the graph runs on; None where the target has none here."""
        if graph in self._moved:
            return self._moved[graph]
        name = self._requested[graph].lower()
        return next((device for device in self._present if name in (AUTO, device.name)), None)

    def may_move(self, graph: str, refusal: LatentcError) -> bool:
        """Whether another device may be tried; if strict, only where this one did not start and nobody named it."""
        return not self._strict or (self.is_auto(graph) and isinstance(refusal, NotStarted))

    def candidates(self, graph: str) -> tuple[Device, ...]:
        """The device that the graph runs on, then those that may take its place, in the target's order."""
        device = self.device(graph)
        if device is None:
            return ()
        refused = self._refused.get(graph, set())
        others = (
            candidate
            for candidate in self._present
            if candidate is not device and candidate.name not in refused
        )
        return (device, *(candidate for candidate in others if self._has_type(graph, candidate)))

    def _has_type(self, graph: str, device: Device) -> bool:
        try:
            self.compute(graph, device)
        except UsageError:
            return False
        return True

    def compute(self, graph: str, device: Device) -> str:
        """The type that the graph is computed in on `device`.

        Raises:
            UsageError: the device does not have the type that was asked for.
        """
        return choose(self._compute, device, self._records[graph], self._chosen)

    def move(self, graph: str, device: Device, refusals: Mapping[str, LatentcError]) -> None:
        """The graph runs on `device` from now on, as those in `refusals` (name -> error) refused it; says so once."""
        self._moved[graph] = device
        self._refused.setdefault(graph, set()).update(refusals)
        component = self._components.get(graph, graph)
        for name, error in refusals.items():
            if (component, name) in self._lines or (self.is_auto(graph) and isinstance(error, NotStarted)):
                continue  # A provider that is installed where its device is not: nobody asked for it.
            reason = first_lines(error).rstrip(".")
            line = f"{graph} runs on {device.name}, as {name} refused it: {reason}."
            self._lines[component, name] = line
            if self._progress is silent:
                warnings.warn(line, RuntimeWarning, stacklevel=2)
            self._progress(Event(line, 1, 1))

    @property
    def devices(self) -> dict[str, str]:
        """Graph folder -> name of the device that it runs on; empty where the target has none here."""
        placed = {graph: self.device(graph) for graph in self._records}
        return {graph: device.name for graph, device in placed.items() if device is not None}

    @property
    def text(self) -> str:
        """The devices as people read them: "gpu", "gpu (vae_decoder: cpu)"; empty where there is none."""
        return summary(self.devices) if self.devices else ""

    @property
    def on_host(self) -> bool:
        """Whether all graphs are computed with the host's own processor."""
        placed = [self.device(graph) for graph in self._records]
        return bool(placed) and all(device is not None and device.on_host for device in placed)

    @property
    def computes(self) -> dict[str, str]:
        """Graph folder -> the type that it is computed in ("bf16"); empty where the target has no device here.

        Raises:
            UsageError: a device does not have the type that was asked for.
        """
        placed = {graph: self.device(graph) for graph in self._records}
        return {graph: self.compute(graph, device) for graph, device in placed.items() if device is not None}

    @property
    def note(self) -> str:
        """What a user is told of what runs: a device that stands in for another or refused a graph, a type that was
        not measured there."""
        notes: dict[str, None] = {}
        unmeasured: dict[tuple[str, str], list[str]] = {}
        failures = []
        for graph, compute in self.computes.items():
            device, record = self.device(graph), self._records[graph]
            assert device is not None
            notes[device.note] = None
            if compute != WIDE and not covered(record, compute, device):
                unmeasured.setdefault((compute, device.name), []).append(graph)
            if failure := broken(record, compute):
                failures.append(f"{graph} is computed in {compute}, which was measured to fail: {failure}.")
        lines = [
            f"{', '.join(graphs)} {'is' if len(graphs) == 1 else 'are'} computed in {compute} on {name}, "
            "which was not measured; measure it: latentc verify ARTIFACT --numerics"
            for (compute, name), graphs in unmeasured.items()
        ]
        return " ".join(filter(None, (*notes, *self._lines.values(), *lines, *failures)))
