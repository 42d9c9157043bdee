"""The visible, ordered list of passes.

Each entry of `PASSES` is "module:class"; the class is an `onnx_ir.passes.PassBase` made with no arguments.
`DEFAULT` runs on every exported graph, in order (`sdpa` leaves constants for a second `fold`). Then come the rewrites
that are on for the target (`compiler.road`) and, after quantization and precision, the target's own
`requirements.passes`. Passes with options (precision) are made by their users and handed to `run` in the same list.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import onnx_ir as ir

from artifacts.errors import UsageError

PASSES: dict[str, str] = {
    "inline": "compiler.passes.inline:InlinePass",
    "fold": "compiler.passes.fold:FoldPass",
    "sdpa": "compiler.passes.sdpa:SdpaPass",
    "dead": "compiler.passes.dead:DeadPass",
    "cse": "compiler.passes.cse:CsePass",
    "centred-norm": "compiler.passes.centred_norm:CentredNormPass",
    "without-fp64": "compiler.passes.without_fp64:WithoutFp64Pass",
}

SIMPLIFY: tuple[str, ...] = ("fold", "dead", "cse")

DEFAULT: tuple[str, ...] = ("inline", "fold", "sdpa", "fold", "dead", "cse", "centred-norm")


def make(name: str) -> ir.passes.PassBase:
    """The pass called `name`.

    Raises:
        UsageError: there is none.
    """
    path = PASSES.get(name)
    if path is None:
        raise UsageError(f"there is no graph pass '{name}' (there are: {', '.join(PASSES)}).")
    return load(path)


def load(path: str) -> ir.passes.PassBase:
    """The pass at "module:class"."""
    module, _, attribute = path.partition(":")
    return cast(ir.passes.PassBase, getattr(importlib.import_module(module), attribute)())


def run(
    model: ir.Model,
    names: Sequence[str | ir.passes.PassBase] = DEFAULT,
    *,
    check: bool = False,
    dump: Path | None = None,
) -> ir.Model:
    """Runs passes in order.

    Args:
        model: changed in place.
        names: names from `PASSES`, or passes made with options.
        check: validates the graph after each pass (`targets.graph.graph_validity`), for debugging.
        dump: an existing folder that receives the graph as text after each pass: "00-export.txt",
            "01-inline.txt", ...; weights are named, not written.

    Raises:
        UsageError: an unknown name.
        InvariantError: `check` found an invalid graph; the message names the pass.
    """
    from targets.graph.graph_validity import check_model, dump_text

    passes = [(make(item), item) if isinstance(item, str) else (item, type(item).__name__) for item in names]
    if dump is not None:
        dump_text(model, dump / "00-export.txt")
    for number, (step, name) in enumerate(passes, start=1):
        model = step(model).model
        if dump is not None:
            dump_text(model, dump / f"{number:02}-{name}.txt")
        if check:
            check_model(model, name)
    return model


def simplify(model: ir.Model) -> ir.Model:
    """What a target runs after it has fixed dimensions: shape arithmetic becomes constants. Changed in place."""
    return run(model, SIMPLIFY)
