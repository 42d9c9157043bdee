"""What is computed in: devices that are pretended, so that every processor tests the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from artifacts.errors import UsageError
from artifacts.evidence_records import Evidence
from artifacts.manifest import GraphRecord
from runtimes.compute import (
    check_requested,
    choose,
    covered,
    default,
    host_of,
    natively,
    summary,
    types_to_check,
    worth_measuring,
)
from runtimes.sessions.session_contract import Device
from tests.runtimes import tiny

BF16_CPU = Device("cpu", "", computes=("bf16", "fp32", "fp16"))
PLAIN_CPU = Device("cpu", "", computes=("fp32",))
GPU = Device("gpu.1", "", computes=("fp16", "fp32"))
NPU = Device("npu", "", computes=("fp16",))
TYPED = Device("cuda", "")


def graph(stored: str = "fp16", *evidence: Evidence) -> GraphRecord:
    return tiny.manifest().graphs[0].model_copy(update={"precision": stored, "evidence": evidence})


def measured(compute: str, device: str = "cpu", broken: str = "") -> Evidence:
    return Evidence(compute=compute, device=device, check="quick", error={"out": 0.01}, broken=broken)


@pytest.mark.parametrize(
    ("device", "stored", "types"),
    [
        (BF16_CPU, "fp16", ("bf16", "fp32", "fp16")),
        (BF16_CPU, "bf16", ("bf16", "fp32", "fp16")),
        (BF16_CPU, "fp32", ("fp32", "bf16", "fp16")),
        (PLAIN_CPU, "bf16", ("fp32",)),
        (GPU, "fp16", ("fp16", "fp32")),
        (GPU, "fp32", ("fp32", "fp16")),
        (NPU, "fp32", ("fp16",)),
        (TYPED, "fp16", ("fp16",)),
    ],
)
def test_the_types_of_a_device_and_its_default(device: Device, stored: str, types: tuple[str, ...]) -> None:
    assert natively(device, stored) == types
    assert choose("auto", device, graph(stored)) == types[0]
    assert [choose(kind, device, graph(stored)) for kind in types] == list(types)


def test_a_type_that_was_measured_to_fail_gives_way_to_fp32() -> None:
    failed = graph("fp16", measured("fp32"), measured("bf16", broken="not finite"))
    assert choose("auto", BF16_CPU, failed) == "fp32"
    assert choose("bf16", BF16_CPU, failed) == "bf16", "who asks for it gets it"
    assert choose("auto", GPU, failed) == "fp16", "that it fails in another type says nothing"
    assert default(("bf16",), failed.evidence) == "bf16", "nothing can take its place"


@pytest.mark.parametrize(
    ("device", "stored", "types"),
    [
        (BF16_CPU, ("fp16", "fp16"), {"fp32": "fp32", "bf16": "auto"}),
        (BF16_CPU, ("fp32", "fp32"), {"fp32": "fp32"}),
        (BF16_CPU, ("fp32", "fp16"), {"fp32": "fp32", "bf16": "auto"}),
        (PLAIN_CPU, ("fp16",), {"fp32": "fp32"}),
        (NPU, ("fp32",), {"fp16": "auto"}),
        (TYPED, ("fp32", "fp16"), {"fp16": "auto"}),
        (TYPED, ("fp32",), {"fp32": "fp32"}),
        (None, ("fp16", "fp32"), {"fp16": "auto"}),
        (None, ("fp32",), {"fp32": "auto"}),
    ],
)
def test_pictures_are_checked_in_fp32_and_in_what_runs_by_default(
    device: Device | None, stored: tuple[str, ...], types: dict[str, str]
) -> None:
    assert list(types_to_check(device, map(graph, stored)).items()) == list(types.items())


def test_a_type_that_is_not_there_is_a_usage_error_that_says_which_are() -> None:
    with pytest.raises(
        UsageError, match=r"cannot be computed in bf16 on device 'cpu' here: it has fp32\."
    ) as caught:
        choose("bf16", PLAIN_CPU, graph())
    assert caught.value.hint == "Use --compute fp32, or leave it out"
    with pytest.raises(UsageError, match="it has fp16, the type that it was compiled in"):
        choose("fp32", TYPED, graph())
    with pytest.raises(UsageError, match="no type 'int8' to compute in"):
        check_requested("int8")


def test_what_is_measured_is_fp32_and_the_default() -> None:
    assert worth_measuring(natively(BF16_CPU, "fp16")) == ("fp32", "bf16")
    assert worth_measuring(natively(BF16_CPU, "fp32")) == ("fp32",)
    assert worth_measuring(natively(NPU, "fp16")) == ("fp16",)


def test_evidence_covers_its_type_on_its_kind_of_device() -> None:
    known = graph("fp16", measured("fp32"), measured("fp16", "gpu.0"))
    assert covered(known, "fp32", BF16_CPU) and covered(known, "fp16", GPU)
    assert not covered(known, "bf16", BF16_CPU)
    assert not covered(known, "fp32", GPU)
    assert not covered(graph("fp16", Evidence(check="quick", error={"out": 0.01})), "fp32", BF16_CPU)


def test_types_as_people_read_them() -> None:
    assert summary({"unet": "bf16", "vae": "bf16"}) == "bf16"
    assert summary({"text": "bf16", "unet": "bf16", "vae": "fp32"}) == "bf16 (vae: fp32)"
    assert summary({}) == "unknown"


def test_the_device_that_is_the_host_is_known_by_what_it_says_of_itself() -> None:
    host = Device("beads", "", on_host=True)
    assert host_of(SimpleNamespace(devices=lambda: (GPU, PLAIN_CPU, host))) == "beads"  # type: ignore[arg-type]
    assert host_of(SimpleNamespace(devices=lambda: (GPU,))) == "auto"  # type: ignore[arg-type]
