"""No library that we load tells its vendor of its use or leaves an id in the user's home, unless the user wants it."""

from __future__ import annotations

import os
import sys

WANTED = "LATENTC_TELEMETRY"
"""A user's variable: 1 leaves to each library what it does by itself."""

VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""The vendors' own variables, read when their libraries are loaded. What the user has set stays."""

# Imported as a module that is not there, OpenVINO and NNCF do without it; no variable turns it off.
_MODULE = "openvino_telemetry"


def off() -> None:
    """Turns it off for this process and those that it starts; before the libraries are imported. Imports nothing."""
    if os.environ.get(WANTED, "0") not in ("", "0"):
        return
    for name, value in VARIABLES.items():
        if not os.environ.get(name):
            os.environ[name] = value
    sys.modules.setdefault(_MODULE, None)  # type: ignore[arg-type]
