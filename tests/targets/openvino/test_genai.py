"""OpenVINO GenAI opens an artifact as it is, and draws what latentc draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compiler.evidence.metrics import psnr

# In a process of its own: it loads OpenVINO's libraries with its own extensions.
DRAW = """
import sys
import numpy as np, openvino_genai
pipeline = openvino_genai.Text2ImagePipeline(sys.argv[1], "CPU", INFERENCE_PRECISION_HINT="f32")
size = int(sys.argv[3])
picture = pipeline.generate("a large red circle", num_inference_steps=4, guidance_scale=3.0, width=size, height=size,
                            generator=openvino_genai.TorchGenerator(7))
np.save(sys.argv[2], picture.data[0])
"""


def genai(artifact: Path, out: Path, size: int) -> np.ndarray:
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(artifact), str(out), str(size)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.asarray(np.load(out), np.float64) / 255


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shapes", "sdxl"])
def test_it_draws_the_same_picture(name: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai")
    import torch

    import latentc

    model, size = "shapes", 64
    if name != "shapes":
        from tests.sweep.sd import sdxl

        size, model = 32, str(tmp_path / "model")
        sdxl().save_pretrained(model)
    artifact = tmp_path / "artifact"
    latentc.compile(
        model, artifact, target="openvino", precision="fp32", check="none", size=f"{size}..64", batch="1..2"
    )
    with latentc.Pipeline.from_pretrained(artifact, compute="fp32") as pipeline:
        ours = pipeline(
            "a large red circle",
            num_inference_steps=4,
            guidance_scale=3.0,
            width=size,
            height=size,
            generator=torch.Generator().manual_seed(7),
        ).images[0]
    theirs = genai(artifact, tmp_path / "picture.npy", size)
    # It drops the fraction of a pixel's level, which diffusers rounds: 51 dB are all that there can be.
    assert psnr(theirs, np.asarray(ours, np.float64) / 255) > 45
