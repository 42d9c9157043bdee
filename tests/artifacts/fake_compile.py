"""A compile without a model: small parts, loose files and a manifest, through the real work folder.

Also run as a script by the tests that kill it: ``fake_compile.py OUT CONTENT LOG FORCE SLEEP``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from artifacts.call_trees import ConstLeaf, ObjectNode, SequenceNode, TensorLeaf
from artifacts.evidence_records import Evidence
from artifacts.hashing import content_key
from artifacts.manifest import ComponentRecord, FileRecord, GraphRecord, Manifest, MethodRecord, Source
from artifacts.workspace import Workspace

GRAPHS = ("unet", "vae_decoder")


def manifest_for(files: tuple[FileRecord, ...]) -> Manifest:
    """The manifest of an artifact with the graphs `GRAPHS`."""
    result = ObjectNode(
        class_path="diffusers.models.outputs:Output", items={"sample": TensorLeaf(name="out")}
    )
    components = [
        ComponentRecord(
            name=name,
            class_path="diffusers.models.unets.unet_2d_condition:UNet2DConditionModel",
            config=f"{name}/config.json",
            methods=(
                MethodRecord(
                    method="forward",
                    arguments={"sample": SequenceNode(kind="list", items=(ConstLeaf(value=1.5), result))},
                    result=result,
                    graph=name,
                ),
            ),
        )
        for name in GRAPHS
    ]
    graphs = [
        GraphRecord(
            folder=name,
            model_file=f"{name}/model.onnx",
            inputs=(),
            outputs=(),
            dims={"height": {"min": 8, "max": 64}},
            precision="fp32",
            parameters=1,
            schemes={"float32": 4},
            digest="0" * 64,
            evidence=(Evidence(check="not measured", reason="a test"),),
        )
        for name in GRAPHS
    ]
    return Manifest(
        source=Source(id="fake", weights=(FileRecord(path="w.safetensors", sha256="0" * 64, size=1),)),
        pipelines={"text-to-image": "diffusers.pipelines.x:StableDiffusionPipeline"},
        target="onnxruntime",
        device="cpu",
        options={"level": 3},
        precision="fp32",
        sizes={"height": {"min": 64, "max": 512}},
        components=tuple(components),
        graphs=tuple(graphs),
        files=files,
        toolchain={"latentc": "0.1.0"},
        created="2026-01-01T00:00:00+00:00",
    )


def extra(folder: Path) -> None:
    """The loose files: some of them in the parts' folders."""
    (folder / "model_index.json").write_text("{}")
    for name in ("scheduler", *GRAPHS):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(f'{{"name": "{name}"}}')


def compile_fake(out: Path, content: str, log: Path, force: bool = False, sleep: float = 0.0) -> Path:
    """Builds and publishes; `log` gets a line for each part that was built to its end or reused."""
    with Workspace(out, force) as ws:
        keys = {}
        for name in GRAPHS:
            keys[name] = key = content_key([name, content])
            if ws.finished(key):
                note(log, f"reused {name}")
                continue
            with ws.build(key) as building:
                (building.folder / "model.onnx").write_text(f"{name} {content}")
                pause(sleep)
                (building.folder / "deep" / "er").mkdir(parents=True)
                (building.folder / "deep" / "er" / "weights.bin").write_text(content * 100)
                building.meta["content"] = content
            note(log, f"built {name}")
        pause(sleep)
        return ws.publish(keys, manifest_for, extra)


def pause(seconds: float) -> None:
    if seconds:  # even a sleep of nothing gives the processor away
        time.sleep(seconds)


def note(log: Path, line: str) -> None:
    with log.open("a") as stream:
        stream.write(f"{line}\n")


if __name__ == "__main__":
    compile_fake(
        Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "force", float(sys.argv[5])
    )
