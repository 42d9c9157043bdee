"""Runs in a peer's environment, without our packages: draws with the peer's own pipeline.

python draw.py LOADER ARTIFACT OUT.npy JSON, where JSON has prompt, steps, guidance, seed, width and height, and may
have the type that OpenVINO computes in ("bf16"; without it "f32").
Saves the picture as float32 of shape (height, width, 3) from 0 to 1.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def _optimum(pipeline: Any, request: dict[str, Any]) -> np.ndarray:
    import torch

    pipeline.set_progress_bar_config(disable=True)
    picture: np.ndarray = pipeline(
        request["prompt"],
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance"],
        width=request["width"],
        height=request["height"],
        generator=torch.Generator("cpu").manual_seed(request["seed"]),
        output_type="np",
    ).images[0]
    return picture


def optimum_intel(artifact: str, request: dict[str, Any]) -> np.ndarray:
    from optimum.intel import OVDiffusionPipeline

    # Without the hint a CPU with bfloat16 units computes in bfloat16, and the comparison would be one of
    # precisions.
    hint = {"INFERENCE_PRECISION_HINT": request.get("type", "f32")}
    return _optimum(OVDiffusionPipeline.from_pretrained(artifact, ov_config=hint), request)


def optimum_onnx(artifact: str, request: dict[str, Any]) -> np.ndarray:
    from optimum.onnxruntime import ORTDiffusionPipeline

    return _optimum(ORTDiffusionPipeline.from_pretrained(artifact), request)


def openvino_genai(artifact: str, request: dict[str, Any]) -> np.ndarray:
    import openvino_genai

    pipeline = openvino_genai.Text2ImagePipeline(
        artifact, "CPU", INFERENCE_PRECISION_HINT=request.get("type", "f32")
    )
    picture = pipeline.generate(
        request["prompt"],
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance"],
        width=request["width"],
        height=request["height"],
        generator=openvino_genai.TorchGenerator(request["seed"]),  # PyTorch's noise
    )
    return np.array(picture.data[0], np.float32) / 255


LOADERS: "dict[str, Callable[[str, dict[str, Any]], np.ndarray]]" = {
    "OVDiffusionPipeline": optimum_intel,
    "ORTDiffusionPipeline": optimum_onnx,
    "Text2ImagePipeline": openvino_genai,
}

if __name__ == "__main__":
    loader, artifact, out, request = sys.argv[1:]
    np.save(out, LOADERS[loader](artifact, json.loads(request)).astype(np.float32))
