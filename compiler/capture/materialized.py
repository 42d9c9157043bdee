"""A model in PyTorch whose weights are read where, and as, a compile reads them.

What diffusers can open itself (a folder) is loaded by diffusers, which checks the reading, too. A single file, a model
with adapters or with other components is put together here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.manifest import DimRange, ModelSpec
from compiler.capture import adapters
from compiler.capture.weightless_modules import bind, build, real_tensor
from compiler.model_source import ModelSource
from compiler.source import open_model
from runtimes import reference
from runtimes.assemble import assemble
from targets.graph.weights import Origin


def module(source: ModelSource, name: str) -> torch.nn.Module:
    """A component in fp32 and eval mode.

    Raises:
        LatentcError: a weight is not finite, or is stored nowhere.
    """
    component = source.component(name)
    weights = _weights(source.spec)[name]
    built = build(component, FakeTensorMode(allow_non_fake_inputs=True), as_it_is=True)
    parameters: dict[int, torch.nn.Parameter] = {}
    for path, owner in built.named_modules():
        prefix = f"{path}." if path else ""
        for key, parameter in list(owner._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in parameters:  # tied parameters stay tied
                tensor = real_tensor(built, weights, prefix + key)
                parameters[id(parameter)] = torch.nn.Parameter(tensor, requires_grad=False)
            owner._parameters[key] = parameters[id(parameter)]
        for key, buffer in list(owner._buffers.items()):
            if buffer is not None and prefix + key in weights:
                owner._buffers[key] = real_tensor(built, weights, prefix + key)
    return built


def load(
    spec: ModelSpec,
    class_path: str,
    *,
    variant: str | None = None,
    components: Mapping[str, Any] | None = None,
) -> reference.Reference:
    """The model's pipeline in PyTorch, in fp32 on the CPU.

    Args:
        class_path: the pipeline's class, as manifests have it.
        variant: of a folder: in the names of its weight files.
        components: name -> what stands for the model's own.

    Raises:
        LatentcError: it cannot be opened.
    """
    source = open_model(spec)
    if source.is_folder:
        return reference.load(source.root, class_path, variant=variant, components=components)
    replaced = dict(components or {})
    modules = {c.name: replaced.get(c.name) or module(source, c.name) for c in source.modules}
    pipe = assemble(source.files, class_path, modules | replaced)
    pipe.set_progress_bar_config(disable=True)
    return reference.Reference(pipe, {"batch": DimRange(min=1, max=1)})


@functools.lru_cache(maxsize=1)
def _weights_of(dumped: str) -> dict[str, dict[str, Origin]]:
    source = open_model(ModelSpec.model_validate_json(dumped))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    weights = {component.name: bind(build(component, mode), component) for component in source.modules}
    return adapters.merged(source, weights).weights


def _weights(spec: ModelSpec) -> dict[str, dict[str, Origin]]:
    """Where each weight of each component comes from; kept, as one process checks one model."""
    return _weights_of(spec.model_dump_json())
