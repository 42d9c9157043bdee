"""Runs in a peer's environment, without our packages: the peer's own pipeline, as a worker of a bench.

python engines.py LOADER JSON, where JSON has the folder that the peer made. Answers as artifacts/worker_loop.py does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from artifacts import worker_loop
    from bench import drawing_worker
else:

    def _loaded(*path: str) -> ModuleType:
        """By its path: our packages, and what they import, are not in this environment."""
        file = _OURS.joinpath(*path).with_suffix(".py")
        spec = importlib.util.spec_from_file_location(f"latentc_{path[-1]}", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    _OURS = Path(__file__).resolve().parents[3]
    worker_loop, drawing_worker = _loaded("artifacts", "worker_loop"), _loaded("bench", "drawing_worker")


def threads() -> int | None:
    """As our own sessions take them."""
    text = os.environ.get("LATENTC_THREADS", "")
    return int(text) if text else None


def openvino_default() -> str:
    """What OpenVINO's CPU computes in where nobody asks for a type, as these loaders do not."""
    import openvino

    kind: str = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    return {"f32": "fp32", "f16": "fp16"}.get(kind, kind)


class Diffusers:
    """A pipeline of diffusers' interface. A step's time is from the end of the one before: the first is not told."""

    package = ""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def prepare(self) -> None:
        import diffusers
        import torch

        # diffusers imports a pipeline when it is first asked for.
        index = json.loads((Path(self.folder) / "model_index.json").read_text(encoding="utf-8"))
        getattr(diffusers, index["_class_name"].removeprefix("OV").removeprefix("ORT"), None)
        wanted = threads()
        if wanted is not None:
            torch.set_num_threads(wanted)

    def load(self) -> Any:
        """The pipeline, ready to draw."""
        raise NotImplementedError

    def compute(self) -> str:
        """The type that it computes in: that of the graph."""
        return "fp32"

    def open(self) -> dict[str, Any]:
        self.pipe = self.load()
        self.pipe.set_progress_bar_config(disable=True)
        about = {self.package: version(self.package), "compute": self.compute()}
        return {"threads": threads(), "about": about}

    def draw(self, request: drawing_worker.Request) -> drawing_worker.Drawn:
        import torch

        ends: list[float] = []
        latents: list[np.ndarray] = []

        def end(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            ends.append(time.perf_counter())
            latent = values["latents"]
            latents.append(np.array(latent, np.float32))
            return values

        keywords: dict[str, Any] = {
            "num_inference_steps": request.steps,
            "generator": torch.Generator("cpu").manual_seed(request.seed),
            "callback_on_step_end": end,
        }
        if request.guidance is not None:
            keywords["guidance_scale"] = request.guidance
        if request.size is not None:
            keywords["width"], keywords["height"] = request.size
        start = time.perf_counter()
        picture = self.pipe(request.prompt, **keywords).images[0]
        seconds = time.perf_counter() - start
        image = np.asarray(picture.convert("RGB"))
        steps = tuple(np.diff(ends).tolist())
        return drawing_worker.Drawn(image, seconds, steps, {}, np.stack(latents), ends[0] - start)


class OptimumIntel(Diffusers):
    """optimum-intel's OpenVINO pipeline, at the precision that OpenVINO chooses."""

    package = "optimum-intel"

    def prepare(self) -> None:
        super().prepare()
        from optimum.intel import OVDiffusionPipeline  # noqa: F401

    def load(self) -> Any:
        from optimum.intel import OVDiffusionPipeline

        wanted = threads()
        config = {} if wanted is None else {"INFERENCE_NUM_THREADS": wanted}
        return OVDiffusionPipeline.from_pretrained(self.folder, ov_config=config)

    def compute(self) -> str:
        return openvino_default()


class OptimumOnnx(Diffusers):
    """optimum-onnx's pipeline on ONNX Runtime."""

    package = "optimum-onnx"

    def prepare(self) -> None:
        super().prepare()
        from optimum.onnxruntime import ORTDiffusionPipeline  # noqa: F401

    def load(self) -> Any:
        import onnxruntime
        from optimum.onnxruntime import ORTDiffusionPipeline

        options = onnxruntime.SessionOptions()
        wanted = threads()
        if wanted is not None:
            options.intra_op_num_threads = wanted
        return ORTDiffusionPipeline.from_pretrained(self.folder, session_options=options)


class Genai:
    """OpenVINO GenAI's pipeline, with its generator of PyTorch's numbers."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def prepare(self) -> None:
        import openvino_genai  # noqa: F401
        import torch  # noqa: F401

    def open(self) -> dict[str, Any]:
        import openvino_genai

        wanted = threads()
        config = {} if wanted is None else {"INFERENCE_NUM_THREADS": wanted}
        self.pipe = openvino_genai.Text2ImagePipeline(self.folder, "CPU", **config)
        about = {"openvino-genai": version("openvino-genai"), "compute": openvino_default()}
        return {"threads": wanted, "about": about}

    def draw(self, request: drawing_worker.Request) -> drawing_worker.Drawn:
        import openvino_genai

        ends: list[float] = []
        latents: list[np.ndarray] = []

        def end(step: int, steps: int, latent: Any) -> bool:
            ends.append(time.perf_counter())
            latents.append(np.array(latent.data, np.float32))
            return False  # Go on.

        keywords: dict[str, Any] = {
            "num_inference_steps": request.steps,
            "generator": openvino_genai.TorchGenerator(request.seed),
            "callback": end,
        }
        if request.guidance is not None:
            keywords["guidance_scale"] = request.guidance
        if request.size is not None:
            keywords["width"], keywords["height"] = request.size
        start = time.perf_counter()
        tensor = self.pipe.generate(request.prompt, **keywords)
        seconds = time.perf_counter() - start
        shown = np.stack(latents) if len({array.shape for array in latents}) == 1 else None
        steps = tuple(np.diff(ends).tolist())
        first = ends[0] - start if ends else None
        return drawing_worker.Drawn(np.array(tensor.data[0]), seconds, steps, {}, shown, first)


LOADERS: dict[str, Callable[..., Any]] = {
    "optimum-intel": OptimumIntel,
    "optimum-onnx": OptimumOnnx,
    "openvino-genai": Genai,
}

if __name__ == "__main__":
    worker_loop.serve(lambda: partial(drawing_worker.reply, LOADERS[sys.argv[1]](**json.loads(sys.argv[2]))))
