"""An artifact for DirectML with one small, real graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from artifacts.evidence_records import PictureEvidence
from artifacts.hashing import file_record
from artifacts.manifest import MANIFEST_NAME, DimRange, Manifest, TensorSpec
from artifacts.progress import silent
from targets.directml.target import TARGET
from targets.target_contract import Context
from tests.contract.graphs import Denoiser
from tests.latentc.artifacts_made import made

DIMS = {"batch": DimRange(min=1, max=2), "tokens": DimRange(min=3, max=3)}
PICTURES = PictureEvidence(compute="fp32", prompts=8, psnr=41.25, worst_psnr=38, ssim=0.99, worst_ssim=0.98)


def compiled(root: Path, **changes: Any) -> Manifest:
    """One graph at `root`, a file of its component's and one of the pipeline's; `changes` are the manifest's."""
    manifest = made(root)
    for file in manifest.files:
        (root / file.path).unlink()
    written = TARGET.lower(Denoiser("fp16").model(), TARGET.options(), root / "unet", Context(dims=DIMS))
    (root / "unet/config.json").write_text("{}")
    (root / "scheduler").mkdir()
    (root / "scheduler/scheduler_config.json").write_text('{"a": 1}')
    kind = {"sample": "float32", "timestep": "int64", "flag": "bool"}
    shape: dict[str, tuple[int | str, ...]] = {
        "sample": ("batch", "tokens", 64), "timestep": (), "flag": ("batch",)
    }  # fmt: skip
    graph = manifest.graphs[0].model_copy(
        update={
            "model_file": f"unet/{written.model_file}",
            "inputs": tuple(TensorSpec(name=n, dtype=t, shape=shape[n]) for n, t in kind.items()),
            "dims": DIMS,
            "built": written.built,
        }
    )
    files = [path for path in root.rglob("*") if path.is_file() and path.name != MANIFEST_NAME]
    fields = {
        "target": "directml",
        "options": {"fix": ""},
        "graphs": (graph,),
        "pictures": (PICTURES,),
        "files": tuple(sorted((file_record(root, f, silent) for f in files), key=lambda r: r.path)),
    }
    manifest = manifest.model_copy(update=fields | changes)
    (root / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest
