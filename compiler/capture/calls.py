"""A captured call made again: the method as a torch module of plain tensors."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from artifacts.manifest import TensorSpec
from compiler.capture import trees
from compiler.capture.call_state import put_state
from compiler.capture.infer import Method
from runtimes import settings
from runtimes.call_arguments import signature

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


class MethodCall(torch.nn.Module):
    """``forward(*tensors)`` calls the captured method as its pipeline does and returns the tensors of the result.

    The module is in eval mode; it gets what the pipeline had set on it.
    """

    def __init__(self, module: torch.nn.Module, method: Method) -> None:
        super().__init__()
        self.training = False
        put_state(module, method.state)
        self.path, _, self.name = method.method.rpartition(".")
        self.module = _holder(module, self.path)
        self.method = method

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors in the order of `Method.inputs`, results in that of `Method.outputs`."""
        self._same_sizes(tensors)
        by_name = {spec.name: tensor for spec, tensor in zip(self.method.inputs, tensors, strict=True)}
        arguments = {name: trees.rebuild(tree, by_name) for name, tree in self.method.arguments.items()}
        part = self.module.get_submodule(self.path)
        args, kwargs = call_arguments(type(part), self.name, arguments)
        with settings.applied(part, self.method.settings, by_name):
            result = getattr(type(part), self.name)(part, *args, **kwargs)
        seen = {id(tensor) for tensor in tensors}
        distinct = []
        for tensor in trees.leaves(result):  # An ONNX output is one value under one name.
            if tensor.is_complex():
                tensor = torch.view_as_real(tensor)
            distinct.append(tensor.clone() if id(tensor) in seen else tensor)
            seen.add(id(tensor))
        return tuple(distinct)

    def _same_sizes(self, tensors: tuple[torch.Tensor, ...]) -> None:
        """Tells torch.export which axes are one dimension; it would give each a symbol of its own."""
        first: dict[str, int] = {}
        for spec, tensor in zip(self.method.inputs, tensors, strict=True):
            for axis, size in enumerate(spec.shape):
                if isinstance(size, str):
                    torch._check(tensor.shape[axis] == first.setdefault(size, tensor.shape[axis]))


def _holder(module: torch.nn.Module, path: str) -> torch.nn.Module:
    """A module that holds the submodule of `module` at `path` alone, at the same path: its tensors keep their names."""
    if not path:
        return module
    holder = module.get_submodule(path)
    for name in reversed(path.split(".")):
        inner, holder = holder, torch.nn.Module()
        holder.training = False
        holder.add_module(name, inner)
    return holder


def call_arguments(cls: type, method: str, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Bound arguments (``*args`` as a tuple, ``**kwargs`` as a dict) as a call takes them."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, parameter in signature(cls, method).parameters.items():
        if name not in arguments:
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            args.extend(arguments[name])
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            kwargs.update(arguments[name])
        elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            args.append(arguments[name])
        else:
            kwargs[name] = arguments[name]
    return args, kwargs


def sizes(spec: TensorSpec, point: dict[str, int]) -> tuple[int, ...]:
    """A spec's shape with its symbolic dimensions set."""
    return tuple(point[size] if isinstance(size, str) else size for size in spec.shape)
