"""Which of a vendor's packages are installed, without importing them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib import metadata

from targets.target_contract import Availability


def installed(*modules: str) -> Availability:
    """Whether every module can be imported; the first that is missing is the reason."""
    for module in modules:
        if not _importable(module):
            package = module.replace("_", "-")
            return Availability(False, f"the package '{package}' is not installed", f"pip install {package}")
    return Availability(True)


def versions(*packages: str) -> dict[str, str]:
    """Package -> version, for those of `packages` that are installed."""
    return dict(_versions(packages))


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for package in packages:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
