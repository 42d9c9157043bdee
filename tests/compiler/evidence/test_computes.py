"""A whole compile with OpenVINO: what runs by default, what was measured of it, and what can be asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import UsageError
from artifacts.verification import Artifact
from compiler import build
from tests.compiler.made import request

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_checker")]

UNET = "unet"


@pytest.fixture(scope="module")
def artifact(sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    pytest.importorskip("openvino")
    out = tmp_path_factory.mktemp("computes") / "out"
    return build.compile(
        replace(request(out, model=str(sd15), target="openvino", check="quick"), precision="fp16")
    )


def native() -> tuple[str, ...]:
    """What this processor computes in, its default first."""
    from runtimes.compute import device_of, natively
    from runtimes.sessions import session_table

    device = device_of(session_table.get("openvino"), "cpu")
    assert device is not None
    return natively(device, "fp16")


def opened(artifact: Artifact, **given: Any) -> tuple[str, Any]:
    """OpenVINO's own word for what the UNet is computed in, and the picture's parameters."""
    from runtimes.pipeline import load
    from runtimes.sessions.exact_sizes import SizedSession

    with load(artifact.root, device="cpu", cache=False, **given) as pipeline:
        result = pipeline.generate("a cat", seed=0, steps=1)
        session: Any = pipeline._graphs._sessions[UNET]  # type: ignore[attr-defined]
        if isinstance(session, SizedSession):
            (session,) = session._sessions.values()  # One step without guidance, or with: one size.
        kind = session._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        assert set(pipeline.computes) == {graph.folder for graph in artifact.manifest.graphs}
        return {"f32": "fp32", "f16": "fp16"}.get(kind, kind), result.parameters


def test_the_default_is_what_the_processor_is_best_at_and_was_measured(artifact: Artifact) -> None:
    usual = native()[0]
    assert usual in ("bf16", "fp32")
    for graph in artifact.manifest.graphs:
        assert [found.compute for found in graph.evidence] == list(dict.fromkeys(("fp32", usual)))
        assert {found.device for found in graph.evidence} == {"cpu"}
        # Random weights amplify what bf16 rounds: the limit follows PyTorch's own error in it.
        assert not any(found.broken for found in graph.evidence)
        assert all(max(found.error.values()) <= (found.tolerance or 0) for found in graph.evidence)
    kind, parameters = opened(artifact)
    assert kind == usual
    assert (parameters["precision"], parameters["compute"]) == ("fp16", usual)


def test_fp32_is_what_it_was(artifact: Artifact) -> None:
    kind, parameters = opened(artifact, compute="fp32")
    assert (kind, parameters["compute"]) == ("fp32", "fp32")


def test_a_type_that_is_not_here_is_refused_before_anything_is_opened(artifact: Artifact) -> None:
    from runtimes.pipeline import load

    for kind in {"bf16", "fp16"} - set(native()):
        with pytest.raises(UsageError, match=f"cannot be computed in {kind} on device 'cpu'"):
            load(artifact.root, device="cpu", cache=False, compute=kind)
    with pytest.raises(UsageError, match="no type 'int8'"):
        load(artifact.root, cache=False, compute="int8")


def test_the_numbers_can_be_measured_again_in_one_type(artifact: Artifact) -> None:
    from compiler.evidence.recheck import recheck

    found = recheck(artifact, compute="fp32")
    assert {tuple(each.compute for each in evidence) for evidence in found.values()} == {("fp32",)}
    if "bf16" not in native():
        with pytest.raises(UsageError, match="cannot be computed in bf16"):
            recheck(artifact, compute="bf16")
