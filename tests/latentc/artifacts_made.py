"""Small artifacts for the commands to read: files of a few bytes with a manifest that holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from artifacts.call_trees import TensorLeaf
from artifacts.evidence_records import Evidence
from artifacts.manifest import (
    MANIFEST_NAME,
    ComponentRecord,
    DimRange,
    FileRecord,
    GraphRecord,
    Manifest,
    MethodRecord,
    Source,
    TensorSpec,
)


def made(root: Path, **changes: Any) -> Manifest:
    """An artifact of one graph at `root`; `changes` replace fields of its manifest."""
    contents = {
        "unet/model.onnx": b"graph",
        "unet/model.onnx_data": b"weights" * 9,
        "unet/config.json": b"{}",
    }
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    files = tuple(
        FileRecord(path=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for name, data in contents.items()
    )
    graph = GraphRecord(
        folder="unet",
        model_file="unet/model.onnx",
        inputs=(TensorSpec(name="sample", dtype="float32", shape=("batch", 4, "height", 64)),),
        outputs=(TensorSpec(name="out_sample", dtype="float32", shape=("batch", 4, "height", 64)),),
        dims={"batch": DimRange(min=1, max=4), "height": DimRange(min=64, max=64)},
        precision="fp16",
        kept_fp32=("mid_block: its values reach 70,000",),
        parameters=7_200_000,
        schemes={"float16": 63},
        digest="0" * 64,
        evidence=(
            Evidence(
                compute="fp32", device="cpu", check="quick", error={"out_sample": 0.0012}, tolerance=0.02
            ),
        ),
    )
    component = ComponentRecord(
        name="unet",
        class_path="diffusers.models.unets.unet_2d_condition:UNet2DConditionModel",
        config="unet/config.json",
        methods=(
            MethodRecord(
                method="forward",
                arguments={"sample": TensorLeaf(name="sample")},
                result=TensorLeaf(name="out_sample"),
                graph="unet",
            ),
        ),
    )
    manifest = Manifest(
        source=Source(id="shapes", weights=()),
        pipelines={"text-to-image": "diffusers.pipelines.stable_diffusion:StableDiffusionPipeline"},
        target="onnxruntime",
        device="cpu",
        options={},
        precision="fp16",
        sizes={"height": DimRange(min=512, max=512), "width": DimRange(min=512, max=512)},
        components=(component,),
        graphs=(graph,),
        files=files,
        toolchain={"click": "0.0.1", "no-such-package": "1.0"},
        created="2026-01-01T00:00:00Z",
    ).model_copy(update=changes)
    (root / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest
