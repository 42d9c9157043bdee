"""A text of a declared length: prompts given as embeddings, as tools for weighted and long prompts make them."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.errors import UsageError
from artifacts.manifest import DimRange
from compiler.capture.capture import capture
from compiler.capture.declared_sizes import SizeRange
from compiler.source import open_model
from tests.sweep.models import CASES
from tests.sweep.siblings import unconditional

SIDE = DimRange(min=32, max=32)
TOKENS = DimRange(min=154, max=308)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sdxl", "pixart-sigma"])
def test_the_denoiser_takes_the_declared_lengths_and_the_pipelines_own(name: str, tmp_path: Path) -> None:
    CASES[name].build().save_pretrained(tmp_path)
    captured = capture(open_model(str(tmp_path)), (), SizeRange(SIDE, SIDE), tokens=TOKENS)
    (denoiser,) = (m for m in captured.methods if m.component in ("unet", "transformer"))
    (text,) = (spec for spec in denoiser.inputs if spec.name == "encoder_hidden_states")
    own = captured.tokens.min if captured.tokens is not None else 0
    assert text.shape[1] == "text"
    assert denoiser.dims["text"] == captured.tokens == DimRange(min=own, max=308)
    assert own in (77, 154)  # PixArt reads up to 300
    # Whatever else follows the text's length (a mask of it) has the same name.
    assert all(spec.shape[1] == "text" for spec in denoiser.inputs if "mask" in spec.name)
    assert len(captured.methods) == len({m.folder for m in captured.methods})


def test_without_a_range_the_text_has_the_pipelines_own_length(sd15: Path) -> None:
    captured = capture(open_model(str(sd15)), (), SizeRange(SIDE, SIDE))
    assert captured.tokens is None
    (unet,) = (m for m in captured.methods if m.component == "unet")
    assert unet.inputs[2].shape[1] == 77


def test_a_pipeline_without_prompts_has_no_such_range(tmp_path: Path) -> None:
    unconditional("DDIMPipeline", "DDIMScheduler").save_pretrained(tmp_path)
    side = DimRange(min=16, max=16)
    with pytest.raises(UsageError, match="takes no embeddings of its prompt") as caught:
        capture(open_model(str(tmp_path)), (), SizeRange(side, side), tokens=TOKENS)
    assert caught.value.hint == "Leave --tokens out"
