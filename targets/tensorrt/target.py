"""TensorRT: an engine for named NVIDIA GPUs, and the ONNX file that it can be built from again.

Two builders stand behind the one target. TensorRT-RTX builds for GPUs that are not here; TensorRT proper builds
for the one that is. They share their interface: what differs is in `BUILDERS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import trusted_engines
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from targets.graph.onnx_files import fix_dims, parse_fixed, write_onnx
from targets.rewrites import SPLIT_LINEAR, SUB_PIXEL_CONV
from targets.target_contract import Availability, Context, Lowered, Rebuild, Requirements
from targets.tensorrt.engine_build import EngineJob, Profile, run
from targets.tensorrt.file_format import FORMAT
from targets.versions import installed, versions

if TYPE_CHECKING:
    import onnx_ir as ir

MODEL = "model.onnx"
ENGINE = "model.engine"
CURRENT = "current"
INSTALL = 'pip install "latentc[tensorrt]"'


@dataclass(frozen=True)
class Builder:
    """What one of the two builders is.

    Attributes:
        title: its name in messages.
        module: of its Python bindings.
        packages: whose versions shape an engine.
        capabilities: compute capabilities that it builds for with no such GPU here.
        default: those that are built for when none is named.
        install: the command that installs it.
        times: whether it measures kernels while it builds; what it measured is then kept for the next build.
    """

    title: str
    module: str
    packages: tuple[str, ...]
    capabilities: tuple[str, ...]
    default: tuple[str, ...]
    install: str
    times: bool


BUILDERS: dict[str, Builder] = {
    "rtx": Builder(
        title="TensorRT-RTX",
        module="tensorrt_rtx_bindings",
        packages=("tensorrt_rtx_cu13_bindings", "tensorrt_rtx_cu13_libs"),
        capabilities=("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
        default=("sm86", "sm89", "sm120"),
        install=INSTALL,
        times=False,  # It has no such GPU: "timing cache operations are no-ops", as it says itself.
    ),
    "tensorrt": Builder(
        title="TensorRT",
        module="tensorrt",
        packages=("tensorrt",),
        capabilities=(),
        default=(CURRENT,),
        install="pip install tensorrt",
        times=True,
    ),
}
"""In the order of preference of ``--builder auto``."""


FLAGS: dict[str, tuple[str, ...]] = {
    "strip": ("STRIP_PLAN", "REFIT_IDENTICAL"),
    "weight_streaming": ("WEIGHT_STREAMING",),
    "version_compatible": ("VERSION_COMPATIBLE",),
}
"""Option -> the builder's flags. What a builder does not do with them here, it says itself, and the compile ends."""


@dataclass(frozen=True)
class TensorRtOptions:
    """Options of the target "tensorrt".

    Attributes:
        gpu: compute capabilities to build for, with commas between them: sm75, sm80, sm86 (RTX 30), sm89 (RTX 40),
            sm120 (RTX 50), sm121; or "current" for the GPU that is here. By default sm86,sm89,sm120.
        builder: "rtx" (TensorRT-RTX, needs no GPU), "tensorrt" (TensorRT, builds for the GPU that is here), or
            "auto": the first of them that can build for `gpu`.
        profile: sizes that kernels are tuned for, as ``name=size`` with commas between them; by default the middle
            of each declared range.
        strip: leave the weights out of the engine; they are taken from the ONNX file when it is opened.
        weight_streaming: build an engine whose weights may stay in the computer's memory where the GPU's is too small.
        version_compatible: build an engine that newer versions of TensorRT of the same major number open, too.
        fix: symbolic dimensions to make fixed, as ``name=size`` with commas between them.
    """

    gpu: str = ""
    builder: str = "auto"
    profile: str = ""
    strip: bool = False
    weight_streaming: bool = False
    version_compatible: bool = False
    fix: str = ""


class TensorRt:
    """An engine with its weights, and beside it the ONNX file that it was built from."""

    name = "tensorrt"
    summary = "TensorRT, on NVIDIA GPUs; engines are built for named GPUs and need none to be built"
    requirements = Requirements(
        opset=(17, 21),
        precisions=frozenset({"fp32", "fp16", "bf16"}),
        typed="strong",
        weight_formats=frozenset({"int8", "blocked int4"}),
        passes=("without-fp64",),
        rewrites=(SPLIT_LINEAR.off(), SUB_PIXEL_CONV.off()),
        dynamic_shapes=True,
        # Its quantization has no zero points and no negative scales; its int8 products do not overflow.
        activations="int8",
        negative_scales=False,
        scheme_options={
            "int8": {"asymmetric": False},
            "int4": {"asymmetric": False, "positive": True},
            "int8-activations": {"bits": 8},
        },
        stand_in="onnxruntime",
    )
    options: type[TensorRtOptions] = TensorRtOptions
    rebuild = Rebuild(MODEL, frozenset({"fix"}), FORMAT)
    companions = None
    loaders = ()

    def available(self) -> Availability:
        """Whether one of the builders is installed."""
        answers = [installed(builder.module, "onnx", "onnx_ir") for builder in BUILDERS.values()]
        if any(answer.ok for answer in answers):
            return Availability(True)
        modules = " nor ".join(f"'{builder.module}'" for builder in BUILDERS.values())
        return Availability(False, f"neither {modules} is installed", INSTALL)

    def lower(self, graph: ir.Model, options: TensorRtOptions, out_dir: Path, context: Context) -> Lowered:
        """Streams `graph` into ``out_dir/model.onnx`` and ``model.onnx_data``, and builds ``model.engine`` of them.

        The engine is built in a process of its own, which holds the weights once; its memory is free afterwards.

        Raises:
            UsageError: an option names a GPU, a builder or a dimension that there is not.
            LatentcError: the files cannot be written, or the builder refuses the graph.
        """
        builder, capabilities = choose(options.builder, options.gpu)
        fixed = fix_dims(graph, parse_fixed(options.fix))
        profile = make_profile(fixed, context.dims, parse_fixed(options.profile))
        name = graph.graph.name or out_dir.name
        files = write_onnx(fixed, out_dir / MODEL, context.progress, f"{name}: writing weights")
        job = EngineJob(
            module=BUILDERS[builder].module,
            onnx=str(out_dir / MODEL),
            engine=str(out_dir / ENGINE),
            capabilities=capabilities,
            profile=profile,
            flags={name: flags for name, flags in FLAGS.items() if getattr(options, name)},
            timings=str(context.cache / "tensorrt") if context.cache and BUILDERS[builder].times else "",
        )
        built = run(job, context.progress, f"{name}: building the {BUILDERS[builder].title} engine")
        trusted_engines.record_trusted(str(built["sha256"]))
        return Lowered(ENGINE, (*files, ENGINE), {"builder": builder, **built})

    def toolchain(self) -> Mapping[str, str]:
        """Versions of onnx, onnx-ir and the builders."""
        packages = itertools.chain.from_iterable(builder.packages for builder in BUILDERS.values())
        return versions("onnx", "onnx-ir", *packages)


def choose(builder: str, gpu: str) -> tuple[str, tuple[str, ...]]:
    """The builder and the compute capabilities that options name.

    Returns:
        A name in `BUILDERS`, and capabilities ("sm89") or ("current",).

    Raises:
        UsageError: there is no such builder or GPU, or the builder cannot build for it.
        LatentcError: the builder is not installed.
    """
    if builder != "auto" and builder not in BUILDERS:
        raise UsageError(f"there is no builder '{builder}' (there are: auto, {', '.join(BUILDERS)}).")
    wanted = tuple(dict.fromkeys(part.strip().lower() for part in gpu.split(",") if part.strip()))
    if CURRENT in wanted and len(wanted) > 1:
        raise UsageError(f"--gpu {gpu}: 'current' stands alone.", "For instance: --gpu sm89,sm120")
    names = list(BUILDERS) if builder == "auto" else [builder]
    fitting = [n for n in names if all(w in (*BUILDERS[n].capabilities, CURRENT) for w in wanted)]
    if not fitting:
        title = " or ".join(BUILDERS[n].title for n in names)
        supported = ", ".join(
            (*itertools.chain.from_iterable(BUILDERS[n].capabilities for n in names), CURRENT)
        )
        raise UsageError(f"{title} does not build for '{gpu}' (it does for: {supported}).")
    usable = [n for n in fitting if installed(BUILDERS[n].module).ok]
    if not usable:
        first = BUILDERS[fitting[0]]
        raise LatentcError(f"{first.title} is not installed.", f"Run: {first.install}")
    return usable[0], wanted or BUILDERS[usable[0]].default


def make_profile(graph: ir.Model, dims: Mapping[str, DimRange], tuned: Mapping[str, int]) -> Profile:
    """Smallest, tuned-for and largest shape of each input that has a symbolic dimension.

    Args:
        dims: declared ranges of symbolic dimensions.
        tuned: sizes to tune for, by dimension; else the middle of the range.

    Raises:
        UsageError: `tuned` names a dimension that the graph does not have, or a size outside its range; or a
            dimension has no declared range.
    """
    symbols: set[str] = set()
    profile: Profile = {}
    for value in graph.graph.inputs:
        sizes: list[tuple[int, int, int]] = []
        for dim in value.shape or ():
            if isinstance(dim, int):
                sizes.append((dim, dim, dim))
                continue
            name = str(dim.value)
            symbols.add(name)
            if name not in dims:
                raise UsageError(
                    f"TensorRT needs the range of the dimension '{name}' of '{value.name}'; none is declared.",
                    f"Fix it: --fix {name}=SIZE",
                )
            span = dims[name]
            size = tuned.get(name, (span.min + span.max) // 2)
            if not span.min <= size <= span.max:
                raise UsageError(f"--profile {name}={size} is outside the declared {span.min}..{span.max}.")
            sizes.append((span.min, size, span.max))
        if any(low != high for low, _, high in sizes) or (
            value.shape is not None and value.shape.is_dynamic()
        ):
            shapes = tuple(zip(*sizes, strict=True))
            profile[str(value.name)] = (shapes[0], shapes[1], shapes[2])
    unknown = sorted(set(tuned) - symbols)
    if unknown:
        available = ", ".join(sorted(symbols)) or "none"
        raise UsageError(f"the graph has no symbolic dimension '{unknown[0]}' (it has: {available}).")
    return profile


def version_here(builder: str) -> str:
    """The installed version of a builder, empty when it is not installed."""
    try:
        return metadata.version(BUILDERS[builder].packages[0])
    except metadata.PackageNotFoundError:
        return ""


TARGET = TensorRt()
