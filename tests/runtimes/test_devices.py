"""Devices for each component, and what happens where one refuses: a pretended GPU beside a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.progress import Event, silent
from runtimes import graphs as module
from runtimes.devices import RequestedDevices, devices_of, parse_devices
from runtimes.graphs import Graphs
from runtimes.sessions.session_contract import Device, NotStarted, Refused
from tests.runtimes import tiny
from tests.runtimes.test_graphs import Factory, Session

INPUTS: dict[str, np.ndarray] = {"sample": np.ones(2, np.float32)}


class TwoDevices(Factory):
    """A GPU that computes in fp16 and refuses to open or to run what it is told to, and a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses_opening: dict[str, type[LatentcError]] = {}
        self.refuses_running: set[str] = set()

    def devices(self) -> tuple[Device, ...]:
        return (Device("gpu", "", computes=("fp16",)), Device("cpu", "", computes=("fp32",), on_host=True))

    def open(
        self, model_file: Path, device: str, compute: str, cache_dir: Path | None, built: Any
    ) -> Session:
        session = super().open(model_file, device, compute, cache_dir, built)
        graph = model_file.parent.name
        if device == "gpu" and graph in self.refuses_opening:
            raise self.refuses_opening[graph](f"no kernel for {graph}.\nmore of it")
        if device == "gpu" and graph in self.refuses_running:

            def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
                raise Refused("out of memory.")

            session.run = run  # type: ignore[method-assign]
        return session

    def places(self) -> list[tuple[str, str, str]]:
        """(graph, device, type) of everything that was opened."""
        return [(file.parent.name, device, compute) for file, device, compute, _ in self.opened]


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> TwoDevices:
    factory = TwoDevices()
    monkeypatch.setattr(module.session_table, "get", lambda target: factory)
    return factory


def graphs(device: RequestedDevices, events: list[Event] | None = None, **options: Any) -> Graphs:
    progress = (events if events is not None else []).append
    return Graphs(Path(), tiny.manifest(), device, None, progress, **options)


def notes(events: list[Event]) -> list[str]:
    return [event.task for event in events if not event.task.startswith("opening")]


@pytest.mark.parametrize(
    ("asked", "on_host"), [("cpu", True), ("gpu", False), ("gpu,vae=cpu", False), ("cpu,unet=gpu", False)]
)
@pytest.mark.usefixtures("factory")
def test_graphs_are_on_the_host_where_all_their_devices_are(asked: str, on_host: bool) -> None:
    assert graphs(asked).on_host is on_host


def test_nothing_is_on_the_host_where_no_device_is(
    factory: TwoDevices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory, "devices", lambda: ())
    assert not graphs("auto").on_host


@pytest.mark.parametrize(
    ("asked", "devices"),
    [
        ("gpu", {"": "gpu"}),
        ("unet=gpu, vae=cpu", {"": "auto", "unet": "gpu", "vae": "cpu"}),
        ("cpu,unet=gpu.0", {"": "cpu", "unet": "gpu.0"}),
        ({"vae": "cpu"}, {"": "auto", "vae": "cpu"}),
    ],
)
def test_a_device_for_each_component(asked: RequestedDevices, devices: dict[str, str]) -> None:
    assert parse_devices(asked) == devices


@pytest.mark.parametrize("text", ["", "unet=", "=gpu", "unet=gpu,", "a=b=c", "unet=gpu,unet=cpu", "gpu,cpu"])
def test_texts_that_are_no_devices(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_devices(text)
    assert "\n" not in caught.value.message
    assert "--device unet=gpu,vae=cpu" in caught.value.hint


def test_a_component_stands_for_its_graphs_and_a_graph_for_itself() -> None:
    assert devices_of("vae=gpu,vae_encoder=cpu", tiny.manifest()) == {
        "text_encoder": "auto", "unet": "auto", "vae_decoder": "gpu", "vae_encoder": "cpu"
    }  # fmt: skip


def test_graphs_run_where_they_were_placed(factory: TwoDevices) -> None:
    pool = graphs("unet=gpu,vae=CPU")
    pool.open_all()
    assert {graph: device for graph, device, _ in factory.places()} == {
        "text_encoder": "gpu", "unet": "gpu", "vae_decoder": "cpu", "vae_encoder": "cpu"
    }  # fmt: skip
    assert pool.device == "gpu (vae_decoder: cpu, vae_encoder: cpu)"


def test_an_unknown_component_or_device_is_said_before_anything_is_opened(factory: TwoDevices) -> None:
    with pytest.raises(
        UsageError, match=r"^the artifact has no component 'prior' to place on a device \(it has: .*unet"
    ):
        graphs("prior=gpu")
    with pytest.raises(
        UsageError, match=r"^target 'openvino' has no device 'npu' here \(there are: gpu, cpu"
    ):
        graphs("unet=npu")
    with pytest.raises(UsageError, match="'vae_decoder' cannot be computed in fp16 on device 'cpu'"):
        graphs("vae=cpu", compute="fp16")
    assert factory.opened == []


@pytest.mark.parametrize("asked", ["gpu", "auto"])
def test_a_graph_that_a_device_does_not_open_runs_on_the_next(asked: str, factory: TwoDevices) -> None:
    factory.refuses_opening = {"vae_decoder": Refused, "vae_encoder": Refused}
    events: list[Event] = []
    pool = graphs(asked, events)
    before = pool.note
    for _ in range(2):
        for graph in ("unet", "vae_decoder", "vae_encoder"):
            assert pool.run(graph, INPUTS)["out"].tolist() == [2, 2]
    assert factory.places() == [
        ("unet", "gpu", "fp16"), ("vae_decoder", "gpu", "fp16"), ("vae_decoder", "cpu", "fp32"),
        ("vae_encoder", "gpu", "fp16"), ("vae_encoder", "cpu", "fp32"),
    ]  # fmt: skip
    line = "vae_decoder runs on cpu, as gpu refused it: no kernel for vae_decoder."
    assert notes(events) == [line], "once for the component, in one line"
    assert line in pool.note and line not in before
    assert pool.device == "gpu (vae_decoder: cpu, vae_encoder: cpu)"
    assert pool.computes["vae_decoder"] == "fp32"


def test_a_graph_that_a_device_does_not_run_is_run_on_the_next(factory: TwoDevices) -> None:
    factory.refuses_running = {"unet"}
    events: list[Event] = []
    pool = graphs("gpu", events)
    for _ in range(2):
        assert pool.run("unet", INPUTS)["out"].tolist() == [2, 2]
    assert factory.places() == [("unet", "gpu", "fp16"), ("unet", "cpu", "fp32")]
    assert [session.closed for session in factory.sessions] == [1, 0]
    assert notes(events) == ["unet runs on cpu, as gpu refused it: out of memory."]
    pool.close()
    assert [session.closed for session in factory.sessions] == [1, 1]


def test_strict_makes_a_refusal_an_error(factory: TwoDevices) -> None:
    factory.refuses_opening, factory.refuses_running = {"vae_decoder": Refused}, {"unet"}
    events: list[Event] = []
    pool = graphs("auto", events, strict=True)
    with pytest.raises(Refused, match="no kernel for vae_decoder"):
        pool.run("vae_decoder", INPUTS)
    with pytest.raises(Refused, match="out of memory"):
        pool.run("unet", INPUTS)
    assert [device for _, device, _ in factory.places()] == ["gpu", "gpu"]
    assert notes(events) == []


def test_a_type_that_was_asked_for_is_not_given_up(factory: TwoDevices) -> None:
    factory.refuses_opening = {"unet": Refused}
    with pytest.raises(Refused, match="no kernel"):
        graphs("gpu", compute="fp16").run("unet", INPUTS)


def test_what_is_no_refusal_is_not_tried_elsewhere(factory: TwoDevices) -> None:
    factory.refuses_opening = {"unet": LatentcError}
    with pytest.raises(LatentcError, match="no kernel for unet"):
        graphs("gpu").run("unet", INPUTS)
    assert [device for _, device, _ in factory.places()] == ["gpu"]


def test_a_device_that_nobody_asked_for_and_is_not_there_is_passed_over_in_silence(
    factory: TwoDevices,
) -> None:
    factory.refuses_opening = {"unet": NotStarted}
    events: list[Event] = []
    pool = graphs("auto", events, strict=True)
    assert pool.run("unet", INPUTS)["out"].tolist() == [2, 2]
    assert notes(events) == []
    with pytest.raises(NotStarted):
        graphs("gpu", events, strict=True).run("unet", INPUTS)


def test_what_all_devices_refuse_is_told_in_the_first_ones_words(
    factory: TwoDevices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model_file: Path, device: str, *rest: Any) -> Session:
        raise Refused(f"{device} has no such operator.")

    monkeypatch.setattr(factory, "open", refuse)
    with pytest.raises(Refused, match="gpu has no such operator"):
        graphs("auto").run("unet", INPUTS)


def test_python_warns_where_no_progress_is_told(factory: TwoDevices) -> None:
    factory.refuses_opening = {"unet": Refused}
    pool = Graphs(Path(), tiny.manifest(), "gpu", None, silent)
    with pytest.warns(RuntimeWarning, match="unet runs on cpu, as gpu refused it"):
        pool.open("unet")
