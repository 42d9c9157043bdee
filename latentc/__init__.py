"""latentc compiles any diffusers pipeline for the device it will run on, and proves that the result is right.

A function for each command, `Pipeline` to draw with, and what they take and return; each is imported when it is first
asked for. docs/python.md shows them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artifacts.errors import LatentcError, UsageError
    from artifacts.manifest import DimRange, Manifest, Recipe
    from artifacts.progress import Event, Progress
    from artifacts.verification import Artifact
    from bench.bench_request import BenchRequest
    from bench.interleaved_run import Outcome
    from compiler.capture.declared_sizes import SizeRange
    from compiler.compile_request import CompileRequest
    from compiler.rebuild import RebuildRequest
    from compiler.speed_tuning import TuneRequest
    from latentc.api.compiling import auto, compile, rebuild
    from latentc.api.drawing import Pipeline, load
    from latentc.api.inspecting import ModelSummary, Verification, inspect, verify
    from latentc.api.listing import TargetInfo, targets
    from latentc.api.measuring import bench
    from latentc.api.sharing import Pushed, bom, push, sign
    from latentc.api.snapshots import GraphCheck, graph_check, graph_snapshot
    from latentc.api.tuning import tune
    from runtimes.meter import Cancelled
    from runtimes.result import Result

__all__ = [
    "Artifact",
    "BenchRequest",
    "Cancelled",
    "CompileRequest",
    "DimRange",
    "Event",
    "GraphCheck",
    "LatentcError",
    "Manifest",
    "ModelSummary",
    "Outcome",
    "Pipeline",
    "Progress",
    "Pushed",
    "RebuildRequest",
    "Recipe",
    "Result",
    "SizeRange",
    "TargetInfo",
    "TuneRequest",
    "UsageError",
    "Verification",
    "__version__",
    "auto",
    "bench",
    "bom",
    "compile",
    "graph_check",
    "graph_snapshot",
    "inspect",
    "load",
    "push",
    "rebuild",
    "sign",
    "targets",
    "tune",
    "verify",
]

# Name -> where it is. A plain table instead of imports: `import latentc` must cost nothing.
_EXPORTS = {
    "Artifact": "artifacts.verification:Artifact",
    "BenchRequest": "bench.bench_request:BenchRequest",
    "Cancelled": "runtimes.meter:Cancelled",
    "CompileRequest": "compiler.compile_request:CompileRequest",
    "DimRange": "artifacts.manifest:DimRange",
    "Event": "artifacts.progress:Event",
    "GraphCheck": "latentc.api.snapshots:GraphCheck",
    "LatentcError": "artifacts.errors:LatentcError",
    "Manifest": "artifacts.manifest:Manifest",
    "ModelSummary": "latentc.api.inspecting:ModelSummary",
    "Outcome": "bench.interleaved_run:Outcome",
    "Pipeline": "latentc.api.drawing:Pipeline",
    "Progress": "artifacts.progress:Progress",
    "Pushed": "latentc.api.sharing:Pushed",
    "RebuildRequest": "compiler.rebuild:RebuildRequest",
    "Recipe": "artifacts.manifest:Recipe",
    "Result": "runtimes.result:Result",
    "SizeRange": "compiler.capture.declared_sizes:SizeRange",
    "TargetInfo": "latentc.api.listing:TargetInfo",
    "TuneRequest": "compiler.speed_tuning:TuneRequest",
    "UsageError": "artifacts.errors:UsageError",
    "Verification": "latentc.api.inspecting:Verification",
    "auto": "latentc.api.compiling:auto",
    "bench": "latentc.api.measuring:bench",
    "bom": "latentc.api.sharing:bom",
    "compile": "latentc.api.compiling:compile",
    "graph_check": "latentc.api.snapshots:graph_check",
    "graph_snapshot": "latentc.api.snapshots:graph_snapshot",
    "inspect": "latentc.api.inspecting:inspect",
    "load": "latentc.api.drawing:load",
    "push": "latentc.api.sharing:push",
    "rebuild": "latentc.api.compiling:rebuild",
    "sign": "latentc.api.sharing:sign",
    "targets": "latentc.api.listing:targets",
    "tune": "latentc.api.tuning:tune",
    "verify": "latentc.api.inspecting:verify",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("latentc")
    elif name in _EXPORTS:
        from importlib import import_module

        module, _, attribute = _EXPORTS[name].partition(":")
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module 'latentc' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
