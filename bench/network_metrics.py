"""Measures that need a trained network: LPIPS, CLIP score and FID, through torchmetrics.

Nothing is downloaded: where a network's weights are not on disk, the measure is not taken, and says why.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.error_text import class_and_text
from bench.record import Measured
from bench.stats import measured
from compiler.evidence.metrics import frames, tensor
from runtimes.guard import guarded
from runtimes.model_view import component_view

if TYPE_CHECKING:
    import numpy as np

CLIP = "openai/clip-vit-base-patch16"
CLIP_VARIABLE = "LATENTC_CLIP"
"""A folder with another CLIP model, as transformers lays it out."""
LPIPS_WEIGHTS = "alexnet-*.pth"
FID_WEIGHTS = "weights-inception-2015-12-05-*.pth"


def lpips(groups: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> Measured:
    """Learned perceptual distance (AlexNet) of pairs of pictures, grouped by prompt; 0 is equal."""
    missing = _missing(("torchvision",), LPIPS_WEIGHTS)
    if missing:
        return Measured(reason=missing)

    def take() -> Measured:
        from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

        def distance(picture: np.ndarray, other: np.ndarray) -> float:
            value = learned_perceptual_image_patch_similarity(
                tensor(picture / 255), tensor(other / 255), net_type="alex", normalize=True
            )
            return float(value)

        values = [[distance(*pair) for pair in group] for group in groups]
        return measured(values, worst=max(max(group) for group in values))

    return _guarded(take)


def clip_score(groups: Sequence[Sequence[np.ndarray]], prompts: Sequence[str]) -> Measured:
    """100 times the cosine of CLIP's embeddings of a picture and its prompt."""
    model = clip_model()
    if model is None:
        return Measured(
            reason=f"{CLIP} is not on disk (or set {CLIP_VARIABLE} to a folder with a CLIP model)"
        )

    def take() -> Measured:
        import torch
        from torchmetrics.multimodal.clip_score import CLIPScore

        metric = CLIPScore(model_name_or_path=lambda: _clip(model))

        def score(image: np.ndarray, prompt: str) -> float:
            metric.reset()
            with torch.no_grad():
                shown = list(_bytes(image))
                return float(metric(shown, [prompt] * len(shown)))

        values = [
            [score(image, prompt) for image in group] for group, prompt in zip(groups, prompts, strict=True)
        ]
        return measured(values, worst=min(min(group) for group in values), reason=f"with {model}")

    return _guarded(take)


def fid(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Measured:
    """Frechet distance of InceptionV3's features of two sets of pictures; 0 is equal."""
    missing = _missing(("torch_fidelity",), FID_WEIGHTS)
    if missing:
        return Measured(reason=missing)

    def take() -> Measured:
        import torch
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature=2048)
        with torch.no_grad():
            for image in theirs:
                metric.update(_bytes(image), real=True)
            for image in ours:
                metric.update(_bytes(image), real=False)
            value = float(metric.compute())
        return Measured(value=value, reason=f"of {len(ours)} pictures: comparable with the same number only")

    return _guarded(take)


def clip_model() -> str | None:
    """The CLIP model that is on disk, or None: $LATENTC_CLIP, or `CLIP` in the hub's cache."""
    named = os.environ.get(CLIP_VARIABLE)
    if named:
        return named
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(CLIP, "model.safetensors")
    return str(Path(file).parent) if isinstance(file, str) else None


def _clip(folder: str) -> tuple[Any, Any]:
    """The model and its processor, from safetensors and JSON only, which are looked through as a model's are.

    Raises:
        LatentcError: a file there names code, a kernel or another model, or would be fetched.
    """
    import torch
    from transformers import CLIPModel, CLIPProcessor

    with component_view(Path(folder)) as view, guarded(f"CLIP, loaded from {folder},"):
        model = CLIPModel.from_pretrained(view, local_files_only=True, use_safetensors=True).eval()
        processor = CLIPProcessor.from_pretrained(view, local_files_only=True)
    for name in ("get_image_features", "get_text_features"):
        inner = getattr(model, name)

        def features(*args: Any, inner: Any = inner, **kwargs: Any) -> Any:
            # transformers 5 returns its output object where torchmetrics expects the tensor in it.
            result = inner(*args, **kwargs)
            return result if isinstance(result, torch.Tensor) else result.pooler_output

        setattr(model, name, features)
    return model, processor


def _missing(packages: Sequence[str], weights: str) -> str:
    """Why a measure cannot be taken, or nothing."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        return f"it needs {' and '.join(absent)}"
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return "" if list(folder.glob(weights)) else f"{weights} is not in torch's cache"


def _guarded(take: Callable[[], Measured]) -> Measured:
    """What `take` measures, offline and without unpickling; or why it failed, since libraries that measure
    raise whatever they like and a bench is not lost for it."""
    with _offline():
        try:
            return take()
        except Exception as error:
            return Measured(reason=f"it failed: {class_and_text(error)}")


@contextmanager
def _offline() -> Iterator[None]:
    ours = {"HF_HUB_OFFLINE": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _bytes(image: np.ndarray) -> Any:
    """uint8 [frames, 3, height, width]; a picture is one frame."""
    import numpy as np
    import torch

    return torch.from_numpy(np.ascontiguousarray(frames(image).transpose(0, 3, 1, 2)))
