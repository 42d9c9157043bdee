"""The one visible table of data-aware methods: what chooses values of int4 weights by what they are multiplied with."""

from __future__ import annotations

import importlib
from typing import cast

from artifacts.errors import UsageError
from targets.data_aware_contract import DataAwareMethod

METHODS: dict[str, str] = {
    "awq": "targets.openvino.nncf:AWQ",
    "scale-estimation": "targets.openvino.nncf:SCALE_ESTIMATION",
    "gptq": "targets.openvino.nncf:GPTQ",
}
"""Name -> "module:object"; none is imported before its use."""


def get(name: str) -> DataAwareMethod:
    """The method called `name`.

    Raises:
        UsageError: there is none.
    """
    path = METHODS.get(name)
    if path is None:
        raise UsageError(f"there is no data-aware method '{name}' (there are: {', '.join(METHODS)}).")
    module, _, attribute = path.partition(":")
    return cast(DataAwareMethod, getattr(importlib.import_module(module), attribute))
