"""Which module of the model a node came from: torch's long notes on each node, cut down to a path."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

import onnx_ir as ir

MODULE = "latentc.module"
"""Key of a node's metadata: the path of its module in the component, "" for the component itself."""

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch.onnx writes it."""
_TORCH = "pkg.torch."

# What torch adds between the calls of modules, such as sizes that it looks up, has names that are no paths.
# The second and later calls of one module are marked.
_CALL = re.compile(r"@\d+")
_WRAPPER = re.compile(r"^module(\.|$)")  # `MethodCall.module`


def label_modules(model: ir.Model) -> None:
    """Replaces what torch wrote on every node by `MODULE`, in place.

    The rest (stack traces with the paths of the machine, the exported program line by line) is several times the
    size of the graph itself, and would go into the artifact.
    """
    nodes = [node for graph in (model.graph, *(f.graph for f in model.functions.values())) for node in graph]
    for node in nodes:
        scopes = node.metadata_props.get(SCOPES)
        for key in [k for k in node.metadata_props if k.startswith(_TORCH) or k == "namespace"]:
            del node.metadata_props[key]
        path = None if scopes is None else _path(scopes)
        if path is not None:
            node.metadata_props[MODULE] = path


@lru_cache(maxsize=1024)
def _path(written: str) -> str | None:
    """Scopes from the outermost module to the operator itself -> the innermost module's path, where one is known."""
    scopes: list[str] = ast.literal_eval(written)
    if len(scopes) < 2:
        return ""
    path = _CALL.sub("", scopes[-2])
    return _WRAPPER.sub("", path) if not path or _WRAPPER.match(path) else None
