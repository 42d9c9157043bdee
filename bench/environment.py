"""The machine and the versions that a measurement was taken on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.record import Environment

PACKAGES = ("latentc", "torch", "diffusers", "transformers", "onnxruntime", "openvino", "numpy")
VARIABLES = ("LATENTC_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def environment(evicted: bool) -> Environment:
    """This machine, now.

    Args:
        evicted: whether files were dropped from the page cache before cold starts.
    """
    import psutil

    return Environment(
        machine=platform.machine(),
        processor=processor(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 0,
        logical_cores=psutil.cpu_count() or 0,
        memory=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        evicted=evicted,
        packages={name: release for name in PACKAGES if (release := _version(name))},
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def processor() -> str:
    """The processor's name, as its maker writes it where the system tells."""
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
