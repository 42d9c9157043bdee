"""Draws what trained adapters are asked: in PyTorch without and with them, and by artifacts that have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.manifest import Adapter, DimRange, Embedding
from bench.project.reference.adapter_scenes import Request, edge_map
from bench.project.reference.batched_drawing import BATCH
from bench.project.reference.trained_adapters import TrainedAdapter
from bench.reference import SHAPES_DIR
from bench.reference.shape_scenes import IMAGE_SIZE

if TYPE_CHECKING:
    from PIL.Image import Image

    from compiler.lowering.compile_cache import CompileCache


@dataclass(frozen=True, slots=True)
class Settings:
    """What pictures depend on, besides weights and prompts. Picture `i` has the seed `i`."""

    steps: int = 10
    guidance: float = 3.0


def draw(
    pipe: Callable[..., Any], adapter: TrainedAdapter, requests: Sequence[Request], settings: Settings
) -> list[Image]:
    """One 64x64 picture for each request, in batches of `BATCH`.

    Args:
        pipe: called as diffusers' StableDiffusionPipeline is; for a ControlNet, with the edges as `image`.
    """
    import torch

    pictures: list[Image] = []
    for start in range(0, len(requests), BATCH):
        chunk = requests[start : start + BATCH]
        edges = {"image": [edge_map(r.caption) for r in chunk]} if adapter.kind == "controlnet" else {}
        result = pipe(
            prompt=[request.prompt for request in chunk],
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(chunk))],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            **edges,
        )
        pictures += result.images
    return pictures


def in_pytorch(
    adapter: TrainedAdapter, requests: Sequence[Request], settings: Settings, switched_on: bool = True
) -> list[Image]:
    """The pictures of diffusers, in fp32, with or without the adapter."""
    import torch
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    from runtimes.reference import load

    pipe = load(SHAPES_DIR, batch=BATCH).diffusers
    if adapter.kind == "controlnet":
        controlnet = ControlNetModel.from_pretrained(adapter.path)
        pipe = StableDiffusionControlNetPipeline(
            **pipe.components, controlnet=controlnet, requires_safety_checker=False
        )
        pipe.set_progress_bar_config(disable=True)
    strength: dict[str, float] = {}
    if adapter.kind == "controlnet" and not switched_on:
        strength = {"controlnet_conditioning_scale": 0.0}
    elif adapter.kind == "lora" and switched_on:
        pipe.load_lora_weights(str(adapter.path.parent), weight_name=adapter.path.name)
        pipe.fuse_lora()
    elif adapter.kind == "embedding" and switched_on:
        pipe.load_textual_inversion(str(adapter.path))

    with torch.no_grad():
        return draw(partial(pipe, **strength), adapter, requests, settings)


def compile_with(
    adapter: TrainedAdapter | None, target: str, weights: str, out: Path, compile_cache: CompileCache
) -> Path:
    """Compiles `shapes` with an adapter in it; without one, such that LoRAs and a token can be switched on.

    Args:
        weights: "fp16", or what `--quantize` takes.

    Returns:
        The artifact's folder.
    """
    from compiler.build import compile
    from compiler.capture.declared_sizes import SizeRange
    from compiler.compile_request import CompileRequest

    kind = None if adapter is None else adapter.kind
    path = "" if adapter is None else str(adapter.path)
    side = DimRange(min=IMAGE_SIZE, max=IMAGE_SIZE)
    request = CompileRequest(
        model="shapes",
        out=out,
        target=target,
        # A pipeline with a ControlNet takes its size from the picture that it is given.
        size=SizeRange(side, side),
        batch=DimRange(min=1, max=BATCH),
        check="none",
        quantize="" if weights == "fp16" else weights,
        pictures=0,
        loras=(Adapter(file=path),) if kind == "lora" else (),
        embeddings=(Embedding(file=path),) if kind == "embedding" else (),
        components={"controlnet": path} if kind == "controlnet" else {},
        adaptable=adapter is None,
        spare_tokens=1 if adapter is None else 0,
    )
    return compile(request, compile_cache=compile_cache).root


@contextmanager
def opened(root: Path, switched_on: TrainedAdapter | None = None) -> Iterator[Callable[..., Any]]:
    """An artifact's pipeline, with an adapter switched on if one is named."""
    from artifacts.pinned import Pinned
    from artifacts.progress import silent
    from artifacts.verification import open_artifact
    from compiler.adaptable.switch import AdaptableArtifact, switched
    from runtimes.graphs import Graphs
    from runtimes.pipeline import Pipeline

    artifact = open_artifact(root)
    files = Pinned(artifact)
    graphs = Graphs(files.root, artifact.manifest, "auto", None, silent, files=files)
    pipeline = Pipeline(
        files.root, artifact.manifest, next(iter(artifact.manifest.pipelines)), graphs, silent, files
    )
    try:
        if switched_on is not None and switched_on.kind == "lora":
            adaptable = AdaptableArtifact.of(files.root, artifact.manifest, files)
            replaced = switched(adaptable, (Adapter(file=str(switched_on.path)),))
            graphs.replace(replaced.constants, replaced.adapters)
        elif switched_on is not None:
            pipeline.load_textual_inversion(switched_on.path)
        yield pipeline
    finally:
        pipeline.close()
