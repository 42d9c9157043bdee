"""`python -m bench.passes_time [NAME ...]`: how long each graph pass takes at full size, and what it leaves.

Modules are built and exported without weights from their configs, so nothing is downloaded or read.
Processor seconds, so that a busy machine gives the same figures. Takes a few minutes and under 1.5 GiB.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FullSize:
    """A diffusers class, what differs from its default config, and inputs: (name, shape, dynamic axes)."""

    class_name: str
    config: dict[str, Any]
    inputs: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]


MODELS: dict[str, FullSize] = {
    "sd15-unet": FullSize(
        "UNet2DConditionModel",
        {"cross_attention_dim": 768, "sample_size": 64, "attention_head_dim": 8},
        [
            ("sample", (2, 4, 64, 64), (0, 2, 3)),
            ("timestep", (), ()),
            ("encoder_hidden_states", (2, 77, 768), (0, 1)),
        ],
    ),
    "flux-transformer": FullSize(
        "FluxTransformer2DModel",
        {
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
            "axes_dims_rope": (16, 56, 56),
        },
        [
            ("hidden_states", (2, 1024, 64), (0, 1)),
            ("encoder_hidden_states", (2, 512, 4096), (0, 1)),
            ("pooled_projections", (2, 768), (0,)),
            ("timestep", (2,), (0,)),
            ("img_ids", (1024, 3), (0,)),
            ("txt_ids", (512, 3), (0,)),
            ("guidance", (2,), (0,)),
        ],
    ),
}


def export(spec: FullSize) -> Any:
    """The exporter's `onnx_ir.Model`; its weights are references into a file that does not exist."""
    import diffusers
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    from compiler.weights import Stored, WeightRef

    names = [name for name, _, _ in spec.inputs]

    class Called(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args: torch.Tensor) -> Any:
            return self.module(**dict(zip(names, args, strict=True)), return_dict=False)[0]

    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        warnings.simplefilter("ignore")
        module = Called(getattr(diffusers, spec.class_name)(**spec.config).eval())
        inputs = tuple(torch.empty(shape) for _, shape, _ in spec.inputs)
        axes = tuple(dict.fromkeys(dynamic, torch.export.Dim.AUTO) for _, _, dynamic in spec.inputs)
        program = torch.export.export(module, inputs, dynamic_shapes=(axes,), strict=False)
        exported = torch.onnx.export(program, dynamo=True, optimize=False, opset_version=21, verbose=False)
    assert exported is not None
    model = exported.model
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and isinstance(getattr(tensor, "raw", None), FakeTensor):
            shape = tuple(tensor.shape.numpy())
            value.const_value = WeightRef(
                Stored(Path("nowhere"), name, tensor.dtype, shape, 0, tensor.nbytes), (), name
            )
    return model


def measure(name: str, report: Callable[[str], None] = print) -> None:
    """Exports one model and runs the default passes, then both precisions, one line each."""
    from compiler.passes import table
    from compiler.passes.precision_strong import PrecisionStrongPass
    from compiler.passes.precision_weights import PrecisionWeightsPass

    start = time.process_time()
    model = export(MODELS[name])
    report(f"{name:18} {'export':22} {len(model.graph):7} nodes {time.process_time() - start:7.1f} s")
    total = 0.0

    def run(step: Any, graph: Any) -> Any:
        nonlocal total
        start = time.process_time()
        graph = table.run(graph, (step,))
        seconds = time.process_time() - start
        total += seconds
        label = step if isinstance(step, str) else type(step).__name__
        report(f"{name:18} {label:22} {len(graph.graph):7} nodes {seconds:7.1f} s")
        return graph

    for step in table.DEFAULT:
        model = run(step, model)
    report(f"{name:18} {'all of these':22} {len(model.graph):7} nodes {total:7.1f} s")
    for precision in (PrecisionWeightsPass(), PrecisionStrongPass()):
        run(precision, model.clone())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.passes_time", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MODELS)}; all by default")
    names = parser.parse_args().names or list(MODELS)
    if unknown := sorted(set(names) - set(MODELS)):
        parser.error(f"there is no {', '.join(unknown)} (there are: {', '.join(MODELS)})")
    for name in names:
        measure(name)


if __name__ == "__main__":
    main()
