"""The building of one TensorRT engine, in a process of its own.

`run` is the compiler's side, `building` is the other's: it tells how far it is, and answers with what it built. The
builder's memory goes with its process, and a build is cancelled by ending it.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from artifacts.disk import write_cached
from artifacts.errors import LatentcError
from artifacts.manifest import Built
from artifacts.progress import Event, Progress
from artifacts.worker import WorkerError, ask
from artifacts.worker_loop import Work, tell

Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]
"""Input -> smallest, tuned-for and largest shape."""

# Seconds between two signs of life, so that a cancelled build ends soon.
_PULSE = 0.5


class EngineJob(BaseModel):
    """One engine to build.

    Attributes:
        module: of the builder's bindings.
        onnx: the graph's file; its external data lies beside it.
        engine: the file to write.
        capabilities: compute capabilities ("sm89"), or "current" alone.
        profile: the shapes of inputs with symbolic dimensions.
        flags: option -> names of the builder's flags that it sets.
        timings: a folder for what the builder measured of kernels; empty for none.
    """

    module: str
    onnx: str
    engine: str
    capabilities: tuple[str, ...]
    profile: Profile
    flags: dict[str, tuple[str, ...]] = {}
    timings: str = ""


def run(job: EngineJob, progress: Progress, task: str) -> Built:
    """Builds an engine.

    Args:
        progress: told how far it is, in hundredths. What it raises ends the build.

    Returns:
        What the engine is: version, compute capabilities, profile, tensors, layers by element type, SHA-256.

    Raises:
        LatentcError: the builder refused the graph, or its process ended.
    """
    progress(Event(task, 0, 100))
    done = 0.0

    def report(event: float) -> None:
        nonlocal done
        done = max(done, event)
        progress(Event(task, round(min(done, 0.99) * 100), 100))

    try:
        answer: Built = ask(f"{__name__}:building", job, report)
        progress(Event(task, 100, 100))
    except BaseException as error:
        Path(job.engine).unlink(missing_ok=True)
        if not isinstance(error, WorkerError):
            raise
        options = " ".join(f"--{name.replace('_', '-')}" for name in job.flags)
        raise LatentcError(
            f"{task}{f' with {options}' if options else ''} failed: {error.message}",
            f"Leave out {options}, or build where there is an NVIDIA GPU."
            if options
            else "Use --target onnxruntime, or report the model with this message.",
        ) from error
    return answer


# --- in the process that builds ------------------------------------------------------------------


class _Phases:
    """How much of nested phases is done, from 0 to 1."""

    def __init__(self) -> None:
        self._open: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()

    def start(self, name: str, steps: int) -> None:
        with self._lock:
            self._open.append((name, max(steps, 1), 0))

    def step(self, name: str, step: int) -> None:
        with self._lock:
            self._open = [(n, s, step + 1 if n == name else d) for n, s, d in self._open]

    def finish(self, name: str) -> None:
        with self._lock:
            self._open = [phase for phase in self._open if phase[0] != name]

    @property
    def done(self) -> float:
        with self._lock:
            inner = 0.0
            for _, steps, done in reversed(self._open):
                inner = min((done + inner) / steps, 1.0)
            return inner


def _build(job: EngineJob) -> Built:
    """Builds the engine and writes it; see `run` for what is returned.

    Raises:
        LatentcError: the builder refused the graph.
    """
    import importlib

    trt: Any = importlib.import_module(job.module)
    build_errors: list[str] = []
    logger = error_logger(trt, build_errors)
    builder = trt.Builder(logger)
    # Newer versions know strongly typed networks only, and may have no flag for them any more.
    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strong is None else 1 << int(strong))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(job.onnx):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        messages = "; ".join(f"{e.desc()} ({e.node_operator()} {e.node_name()})" for e in errors[:3])
        raise LatentcError(f"the ONNX parser refused the graph: {messages}")
    config = _config(trt, builder, job)
    ended = threading.Event()
    config.progress_monitor = _monitor(trt, ended)
    try:
        serialized = builder.build_serialized_network(network, config)
    finally:
        ended.set()
    if serialized is None:
        raise LatentcError("; ".join(dict.fromkeys(build_errors)) or "the builder said nothing")
    sha256 = hashlib.sha256(serialized).hexdigest()
    with Path(job.engine).open("wb") as file:
        file.write(serialized)
    _keep_timings(config, job)
    return {
        "version": trt.__version__,
        "compute_capabilities": list(_capabilities(job)),
        "profiles": [{name: [list(shape) for shape in shapes] for name, shapes in job.profile.items()}],
        "inputs": [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": _layers(network),
        **dict.fromkeys(job.flags, True),
        "sha256": sha256,
    }


def error_logger(trt: Any, errors: list[str]) -> Any:
    """A logger of TensorRT's that prints nothing, and adds its errors to `errors`."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                errors.append(message.strip())

    return Logger()


def _config(trt: Any, builder: Any, job: EngineJob) -> Any:
    config = builder.create_builder_config()
    if job.capabilities != ("current",):
        config.num_compute_capabilities = len(job.capabilities)
        for i, name in enumerate(job.capabilities):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), i):
                raise LatentcError(f"this version does not build for {name}")
    elif hasattr(trt, "ComputeCapability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    # So that the inspector can tell the layers' types of an engine that runs.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if job.profile:
        profile = builder.create_optimization_profile()
        for name, shapes in job.profile.items():
            profile.set_shape(name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise LatentcError("the builder refused the optimization profile")
    for name in itertools.chain.from_iterable(job.flags.values()):
        if not hasattr(trt.BuilderFlag, name):
            raise LatentcError(f"this version has no flag {name}")
        config.set_flag(getattr(trt.BuilderFlag, name))
    _use_timings(config, job)
    return config


def _timings(job: EngineJob) -> Path | None:
    """The file of the timing cache, one for each GPU: timings of another are refused."""
    if not job.timings:
        return None
    return Path(job.timings) / f"{job.module}-{'-'.join(_capabilities(job))}.timings"


def _use_timings(config: Any, job: EngineJob) -> None:
    """Gives the builder what an earlier build measured. It refuses another version's, and begins afresh."""
    file = _timings(job)
    if file is None:
        return
    stored = file.read_bytes() if file.is_file() else b""
    for data in (stored, b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _keep_timings(config: Any, job: EngineJob) -> None:
    """Writes what the builder measured; a folder that cannot be written costs time, not function."""
    file = _timings(job)
    cache = None if file is None else config.get_timing_cache()
    if file is not None and cache is not None:
        write_cached(file, bytes(cache.serialize()))


def _monitor(trt: Any, ended: threading.Event) -> Any:
    """Tells how much is done, until `ended` is set."""
    phases = _Phases()

    def pulse() -> None:
        while not ended.wait(_PULSE):
            tell(phases.done)

    threading.Thread(target=pulse, daemon=True).start()

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


def _capabilities(job: EngineJob) -> tuple[str, ...]:
    if job.capabilities != ("current",):
        return job.capabilities
    import torch

    major, minor = torch.cuda.get_device_capability()
    return (f"sm{major}{minor}",)


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape)}


def _layers(network: Any) -> dict[str, dict[str, int]]:
    """Kind of layer -> element type of its first output -> how many there are.

    Networks are strongly typed: these are the types that the engine computes in.
    """
    counts: dict[str, Counter[str]] = {}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        kind = layer.type.name.lower()
        if layer.num_outputs:
            counts.setdefault(kind, Counter())[dtype_name(layer.get_output(0).dtype)] += 1
    return {kind: dict(sorted(counts[kind].items())) for kind in sorted(counts)}


# TensorRT's names of element types -> NumPy's (ml_dtypes' for those that NumPy lacks).
TYPES = {"float": "float32", "half": "float16", "bf16": "bfloat16", "fp8": "float8_e4m3fn"}


def dtype_name(dtype: Any) -> str:
    """NumPy's name of one of TensorRT's element types."""
    name = str(dtype.name).lower()
    return TYPES.get(name, name)


def building() -> Work:
    """The work of the process that builds."""
    return lambda line: _build(EngineJob.model_validate_json(line))
