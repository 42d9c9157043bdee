"""From a captured method to its ONNX graph: built, exported, bound to its weights, simplified, named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.error_text import class_and_line
from artifacts.errors import LatentcError
from compiler.capture.infer import Method
from compiler.capture.split import NotOneGraph, Submodule, can_be_split
from compiler.capture.weightless_modules import build
from compiler.export.bind import bind_weights
from compiler.export.program import OneSizeOnly, export_program, size_steps
from compiler.export.quick import quick
from compiler.export.scopes import label_modules
from compiler.export.translate import translate
from compiler.model_source import ComponentSource
from compiler.passes import pass_table
from targets.file_format import STANDARD
from targets.graph.weights import Origin

STEPS = "latentc.size_steps"
"""Of `graph.meta`: what `compiler.export.program.size_steps` found, for the graph's record."""


def export_graph(component: ComponentSource, method: Method, weights: Mapping[str, Origin]) -> ir.Model:
    """The method's graph in fp32, weights still on disk, after the default passes; `STEPS` is in its `meta`.

    Raises:
        NotOneGraph: torch or ONNX has no graph of it; its parts may have.
        OneSizeOnly: it holds for one declared size, or for one number of rows.
        LatentcError: torch or ONNX has no graph of it, and it has no parts.
    """
    module = build(component, FakeTensorMode(allow_non_fake_inputs=True))
    with parts_may_do(module, method):
        with quick():
            program = export_program(module, method)
            model = translate(program, method)
            steps = size_steps(program, method)
        label_modules(model)
        bind_weights(model, module, weights)
        del program
        model = pass_table.run(model)
        require_standard(model, method)
    name_dimensions(model, method)
    model.graph.name = method.folder
    model.producer_name = "latentc"
    model.graph.meta[STEPS] = steps
    return model


@contextmanager
def parts_may_do(module: torch.nn.Module, method: Method) -> Iterator[None]:
    """While it is open, an error of `method` becomes `NotOneGraph` where its module has parts."""
    part = Submodule(method.component, method.method.rpartition(".")[0])
    try:
        yield
    except OneSizeOnly as error:
        if error.declared or error.rows is not None:
            raise
        _raise(module, part, error, error)
    except LatentcError as error:
        _raise(module, part, error, error)
    except (
        Exception
    ) as error:  # of an exporter that others wrote, and of passes that met what they do not know
        whole = f"'{method.component}.{method.method}' ({type(module.get_submodule(part.path)).__name__})"
        _raise(module, part, LatentcError(f"{whole} cannot be made a graph: {class_and_line(error)}"), error)


def _raise(module: torch.nn.Module, part: Submodule, error: LatentcError, cause: Exception) -> NoReturn:
    if can_be_split(part, module.get_submodule(part.path)):
        raise NotOneGraph(part, error.message, error.hint) from cause
    raise error from (None if error is cause else cause)


def require_standard(model: ir.Model, method: Method) -> None:
    """Whether all operators are of those that files hold: sequences and control flow are not among them.

    Raises:
        LatentcError: others are; the message names them.
    """
    others = {node.op_type for node in model.graph if node.domain in ("", "ai.onnx")} - STANDARD
    if others:
        raise LatentcError(
            f"'{method.component}.{method.method}' has a graph of {', '.join(sorted(others))}, "
            "which no runtime is given."
        )


def name_dimensions(model: ir.Model, method: Method) -> None:
    """Gives the axes of inputs and outputs the names that the manifest declares, in place of torch's symbols."""
    for values, specs in ((model.graph.inputs, method.inputs), (model.graph.outputs, method.outputs)):
        for value, spec in zip(values, specs, strict=True):
            value.shape = ir.Shape(spec.shape)
            value.name = spec.name
