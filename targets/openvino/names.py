"""Names of nodes and tensors that do not depend on what else the process did."""

from __future__ import annotations

import itertools
import re
from typing import Any

# An operator's name and a number. The operator need not be there any more: what was folded keeps its name.
_NUMBERED = re.compile(r"[A-Z][A-Za-z0-9]*_\d+(?:\.\d+)*")


def number_unnamed(model: Any) -> None:
    """Numbers what OpenVINO named itself ("Constant_69", "Convert_3341.0") from 0 in each model.

    OpenVINO numbers across the process: the same graph would give another file, and another hash, each time.
    """
    ops = model.get_ordered_ops()
    taken = {name for op in ops if not _NUMBERED.fullmatch(name := op.get_friendly_name())}
    fresh = (name for i in itertools.count() if (name := f"unnamed_{i}") not in taken)
    for op in ops:
        if _NUMBERED.fullmatch(op.get_friendly_name()):
            op.set_friendly_name(next(fresh))
        for port in op.outputs():
            names = port.get_names()
            if any(map(_NUMBERED.fullmatch, names)):
                port.get_tensor().set_names(
                    {next(fresh) if _NUMBERED.fullmatch(name) else name for name in sorted(names)}
                )
