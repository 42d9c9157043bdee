"""torch.export of one captured method on fake tensors, and the proof that no declared dimension was baked in."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from artifacts.errors import LatentcError
from artifacts.manifest import TensorSpec
from compiler.capture import trees
from compiler.capture.infer import Method

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
    """``forward(*tensors)`` calls the captured method as its pipeline does and returns the tensors of the result."""

    def __init__(self, module: torch.nn.Module, method: Method) -> None:
        super().__init__()
        self.module = module
        self.method = method

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors in the order of `Method.inputs`, results in that of `Method.outputs`."""
        by_name = {spec.name: tensor for spec, tensor in zip(self.method.inputs, tensors, strict=True)}
        arguments = {name: trees.rebuild(tree, by_name) for name, tree in self.method.arguments.items()}
        args, kwargs = call_arguments(type(self.module), self.method.method, arguments)
        result = getattr(type(self.module), self.method.method)(self.module, *args, **kwargs)
        found: list[torch.Tensor] = []
        trees.map_tensors(result, found.append)
        seen = {id(tensor) for tensor in tensors}
        distinct = []
        for tensor in found:  # An ONNX output is one value under one name.
            distinct.append(tensor.clone() if id(tensor) in seen else tensor)
            seen.add(id(tensor))
        return tuple(distinct)


def call_arguments(cls: type, method: str, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Bound arguments (``*args`` as a tuple, ``**kwargs`` as a dict) as a call takes them."""
    import inspect

    from runtimes.signature import signature

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


def export_program(module: torch.nn.Module, method: Method) -> ExportedProgram:
    """The method's graph, its symbolic axes dynamic.

    Args:
        module: with fake parameters; nothing is computed.

    Raises:
        LatentcError: torch cannot export it, or an axis that varies came out fixed; the message names it.
    """
    point = method.shapes[0]
    example = tuple(torch.zeros(sizes(spec, point), dtype=DTYPES[spec.dtype]) for spec in method.inputs)
    dynamic = tuple(
        {axis: Dim.AUTO for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in method.inputs
    )
    wrapper = MethodCall(module, method).eval()
    try:
        with torch.no_grad(), torch.fx.experimental._config.patch(backed_size_oblivious=True):
            program = torch.export.export(wrapper, example, dynamic_shapes=(dynamic,), strict=False)
    except Exception as error:
        raise LatentcError(
            f"'{method.component}.{method.method}' ({type(module).__name__}) cannot be exported by torch "
            f"{torch.__version__}: {type(error).__name__}: {_first_line(error)}",
            "One fixed size may work where a range does not: --size WIDTHxHEIGHT",
        ) from error
    _check_dynamic(program, method)
    return program


def _check_dynamic(program: ExportedProgram, method: Method) -> None:
    users = set(program.graph_signature.user_inputs)
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in users]
    baked: list[str] = []
    for spec, node in zip(method.inputs, placeholders, strict=True):
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str) and isinstance(node.meta["val"].shape[axis], int):
                baked.append(f"axis {axis} of {spec.name} ({size})")
    results = next(n for n in program.graph.nodes if n.op == "output").args[0]
    for spec, node in zip(method.outputs, results, strict=True):
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str) and isinstance(node.meta["val"].shape[axis], int):
                baked.append(f"axis {axis} of the result {spec.name} ({size})")
    if baked:
        raise LatentcError(
            f"'{method.component}.{method.method}' holds for one size only: {', '.join(baked)} must vary, "
            "but its code fixes it.",
            "Compile one size: --size WIDTHxHEIGHT, and one batch: --batch N",
        )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
