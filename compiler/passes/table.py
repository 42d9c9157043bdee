"""The visible, ordered list of passes.

Each entry is "module:object" where the object is an `onnx_ir.passes.PassBase` class made with no arguments.
`DEFAULT` runs on every exported graph, in order; a target's own `requirements.passes` run after it.
"""

from __future__ import annotations

PASSES: dict[str, str] = {}

DEFAULT: tuple[str, ...] = ()
