"""What is loaded when: help needs no ML library, and no import loads a vendor's SDK."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from latentc.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]

# What a command's --help must not load.
HEAVY = (
    "torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino", "numpy",
    "pydantic", "rich", "PIL", "huggingface_hub", "safetensors",
)  # fmt: skip

# What may be missing on a machine: the vendors' SDKs, and everything that only a compile needs.
VENDORS = ("onnxruntime", "openvino", "openvino_genai", "tensorrt", "tensorrt_rtx", "nncf", "optimum")


def loaded_by(statements: str) -> set[str]:
    """Top-level modules in `sys.modules` after a fresh interpreter ran `statements`."""
    script = (
        f"{statements}\nimport sys, json\nprint(json.dumps(sorted({{n.split('.')[0] for n in sys.modules}})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("args", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy(args):
    modules = loaded_by(
        f"import latentc.cli\ntry:\n    latentc.cli.main({args!r})\n"
        "except SystemExit as stop:\n    assert stop.code == 0"
    )
    assert "click" in modules
    assert modules.isdisjoint(HEAVY), sorted(modules & set(HEAVY))


def test_the_package_itself_loads_nothing():
    assert loaded_by("import latentc").isdisjoint({*HEAVY, "click"})


def modules_of(package: str) -> list[str]:
    return [package, *(m.name for m in pkgutil.walk_packages([str(ROOT / package)], f"{package}."))]


@pytest.mark.parametrize(
    "package", ["artifacts", "targets", "runtimes", pytest.param("latentc", marks=pytest.mark.slow)]
)
def test_every_module_imports_without_any_vendors_sdk(package):
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in VENDORS)
    imports = "\n".join(f"import {name}" for name in modules_of(package) if not name.endswith("__main__"))
    assert len(imports.splitlines()) > 3
    loaded_by(f"import sys\n{blocked}\n{imports}")


@pytest.mark.parametrize("package", ["artifacts", "targets"])
def test_what_a_deployed_machine_reads_with_needs_no_torch(package):
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in ("torch", "diffusers", "transformers"))
    imports = "\n".join(f"import {name}" for name in modules_of(package))
    loaded_by(f"import sys\n{blocked}\n{imports}")


def test_public_names_are_found_where_the_table_says():
    import latentc

    for name in latentc.__all__:
        assert getattr(latentc, name) is not None
    assert set(latentc.__all__) <= set(dir(latentc))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        latentc.nothing  # noqa: B018
