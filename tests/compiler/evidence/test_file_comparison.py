"""When a graph's numbers are not measured."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from artifacts.errors import LatentcError
from artifacts.evidence_records import Evidence, MemoryUse
from artifacts.manifest import Built
from artifacts.worker import WorkerEnded, WorkerError
from compiler.evidence import file_comparison
from compiler.evidence.graph_evidence import Beyond, Checker
from compiler.evidence.where import Finding
from tests.compiler.made import method


def measured(checker=None, **changes):
    asked = {
        "target": "t", "tolerance": {}, "precision": "fp32", "weights": (), "built": Built(),
        "parameters": 1_000_000, "check": "quick",
    }  # fmt: skip
    component = SimpleNamespace(library="diffusers", class_name="UNet", folder=Path("unet"), members=())
    source = SimpleNamespace(component=lambda name: component, is_folder=True)
    return file_comparison.compare(
        checker, source, method(), Path("model.onnx"), progress=lambda event: None, **(asked | changes)
    )


def test_what_was_not_asked_for():
    (found,) = measured(check="none")
    assert (found.check, found.reason, found.error) == ("not measured", "--check none", {})


def test_what_there_is_no_memory_for(monkeypatch):
    asked = []
    monkeypatch.setattr(file_comparison, "memory_needed", lambda count: asked.append(count) or 3 * 2**30)
    monkeypatch.setattr("artifacts.memory.available", lambda: 2**30)
    monkeypatch.setattr(file_comparison, "reproducible", lambda: True)  # The method is of no real model.
    jobs = []

    class Asked(Checker):
        def ask(self, job):
            jobs.append(job)
            use = MemoryUse(opening=9, anonymous=7, file_backed=1, calls=())
            return {"device": "cpu", "compute": "bf16", "memory": use.model_dump()}

    (evidence,) = measured(Asked())
    assert evidence.check == "not measured"
    assert evidence.reason == "it takes 3.0 GiB of memory; 1.0 GiB are free"
    assert asked == [1_000_000]
    # What it takes in memory is measured without PyTorch.
    assert jobs[0].only_memory and not jobs[0].points
    assert (evidence.compute, evidence.memory.anonymous, evidence.error) == ("bf16", 7, {})


def test_memory_that_cannot_be_measured_is_no_error(monkeypatch):
    class Failing(Checker):
        def ask(self, job):
            raise WorkerError("it was killed")

    monkeypatch.setattr(file_comparison, "reproducible", lambda: True)
    monkeypatch.setattr("artifacts.memory.available", lambda: 2**20)
    (evidence,) = measured(Failing())
    assert evidence.check == "not measured" and evidence.memory is None


class Killed:
    """A process that the system ends whenever it compares; another measures memory."""

    def __init__(self):
        self.asked = []
        self.closed = 0

    def ask(self, job):
        self.asked.append(job.only_memory)
        if not job.only_memory:
            raise WorkerEnded("its process was ended by signal 9.\nlast words", out_of_memory=True)
        use = MemoryUse(opening=9, anonymous=7, file_backed=1, calls=())
        return {"device": "cpu", "compute": "bf16", "memory": use.model_dump()}

    def close(self):
        self.closed += 1


def test_a_check_that_is_ended_for_its_memory_is_not_measured(monkeypatch):
    monkeypatch.setattr(file_comparison, "reproducible", lambda: True)
    monkeypatch.setattr("compiler.capture.samples.write_points", lambda *args: nullcontext(()))
    monkeypatch.setattr("compiler.capture.samples.order", lambda method: ())
    checker = Checker()
    checker._worker = worker = Killed()
    (evidence,) = measured(checker)
    assert (worker.asked, worker.closed) == ([False, True], 1)
    assert (evidence.check, evidence.reason) == ("not measured", "its process was ended by signal 9.")
    assert (evidence.compute, evidence.memory.anonymous) == ("bf16", 7)


# --- where ---------------------------------------------------------------------------------------

FINDING = Finding(
    folder="unet", output="out", compute="fp32", kind="kernel", between="t against ONNX Runtime", node="node_conv",
    op_type="Conv", module="mid.conv", value="conv", error=0.5, before=1e-6, reason="it is",
)  # fmt: skip


def checked(monkeypatch, run, locate, **changes):
    """A comparison whose check and whose search are these."""
    monkeypatch.setattr(file_comparison.memory, "shortage", lambda needed: "")
    component = SimpleNamespace(library="diffusers", class_name="UNet", folder=Path("unet"), members=())
    source = SimpleNamespace(component=lambda name: component, is_folder=True)
    locator = SimpleNamespace(locate=locate)
    asked = {
        "target": "t", "tolerance": {}, "precision": "fp32", "weights": (), "built": Built(), "parameters": 1,
        "check": "quick", "locator": locator,
    }  # fmt: skip
    checker = SimpleNamespace(run=run)
    values = method(values=({}, {}))
    return file_comparison.compare(
        checker, source, values, Path("m"), progress=lambda event: None, **(asked | changes)
    )


def beyond(job, check):
    raise Beyond("'unet.forward' is not PyTorch's.", "Compile it in --precision fp32.", "fp32", 0.01)


def test_a_check_that_fails_says_where(monkeypatch):
    asked = []
    with pytest.raises(LatentcError) as caught:
        checked(monkeypatch, beyond, lambda job, *rest: asked.append(rest) or (FINDING,))
    first, second = caught.value.message.splitlines()
    assert (
        first == "'unet.forward' is not PyTorch's." and caught.value.hint == "Compile it in --precision fp32."
    )
    assert second.startswith(
        "'out' of unet in fp32 leaves its tolerance first in 'mid.conv': node 'node_conv' (Conv"
    )
    assert second.endswith("relative error 0.5 after 1e-06, t against ONNX Runtime. Kernel: it is.")
    assert asked == [("fp32", 0.01, "unet", 1, {})]


def test_where_nobody_asks_nothing_is_looked_for(monkeypatch):
    with pytest.raises(Beyond, match="is not PyTorch's"):
        checked(monkeypatch, beyond, None, locator=None)


def test_a_search_that_fails_does_not_hide_what_failed(monkeypatch):
    def locate(*asked):
        raise LatentcError("polygraphy is not installed.", 'pip install "latentc[debug]"')

    with pytest.raises(LatentcError) as caught:
        checked(monkeypatch, beyond, locate)
    assert caught.value.message.splitlines() == [
        "'unet.forward' is not PyTorch's.",
        'Where it begins is not known: polygraphy is not installed. pip install "latentc[debug]"',
    ]


def test_a_type_that_fails_where_fp32_takes_its_place_is_told(monkeypatch):
    broken = Evidence(compute="bf16", device="cpu", check="quick", tolerance=0.06, broken="out not finite")
    told = []
    found = checked(
        monkeypatch,
        lambda job, check: (broken,),
        lambda job, compute, limit, *rest: (FINDING,) if (compute, limit) == ("bf16", 0.06) else (),
        on_findings=told.append,
    )
    assert found == (broken,) and told == [(FINDING,)]
