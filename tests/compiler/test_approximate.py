"""A model that is compiled with an approximation: what its evidence says, and that nothing of it is there unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.errors import UsageError
from compiler.build import CompileRequest, compile
from compiler.passes import pooled_keys
from latentc.evidence import approximation_line


@pytest.mark.slow
@pytest.mark.usefixtures("one_checker")
def test_pictures_tell_what_an_approximation_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled_keys, "FEWEST_KEYS", 50)  # the built-in model's pictures are small
    request = CompileRequest(
        "shapes", tmp_path / "out", "onnxruntime", precision="fp32", approximate="pooled-keys", pictures=2
    )
    manifest = compile(request).manifest
    graphs = {graph.folder: graph for graph in manifest.graphs}
    assert graphs["unet"].approximations == ("pooled-keys",)
    assert graphs["text_encoder"].approximations == ()
    (measured,) = graphs["unet"].evidence
    assert measured.tolerance == 0.5 and 1e-3 < max(measured.error.values()) < 0.5
    (pictures,) = manifest.pictures
    assert pictures.psnr is not None and 10 < pictures.psnr < 60
    assert "unet has pooled-keys" in approximation_line(graphs["unet"])


def test_what_a_target_does_not_have_is_refused_before_any_work(tmp_path: Path) -> None:
    request = CompileRequest("shapes", tmp_path / "out", "onnxruntime", approximate="fewer-keys")
    with pytest.raises(UsageError, match="'onnxruntime' has no approximation 'fewer-keys'"):
        compile(request)
