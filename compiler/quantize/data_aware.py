"""int4 whose values follow the data: AWQ, scale estimation and GPTQ.

What the pipeline calls the component with is recorded (`calibrate`), and a method of `method_table` then chooses
values, scales and zero points for the products' weights. Here is what stands between: `run` is the compiler's side,
`compressing` is the other's, in a process of its own, which takes the method's memory with it when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from artifacts import memory
from artifacts.errors import LatentcError
from artifacts.progress import Event, Progress
from artifacts.worker import WorkerError, ask
from artifacts.worker_loop import Work
from compiler.quantize import method_table
from compiler.quantize.blocks import Blocks
from compiler.quantize.calibrate import read_inputs
from compiler.quantize.stream import ChosenValues
from targets.data_aware_contract import Weight

CALLS = 32
"""Calls of the component that a method sees, spread over the timesteps: as many as NNCF's AWQ and scale estimation
look at."""

PROMPTS = 4
"""Of which they are at most."""

# At the peak, in bytes (measured: 48 products of 1280x1280, 32 calls of 128 tokens; NNCF 3.4, OpenVINO 2026.4).
# What the libraries take themselves (measured: 364 MiB);
_BASE_MEMORY = 400 * 2**20
# for each of the component's parameters, while the whole of it is open and its activations are recorded (measured: 14,
# stored in fp16 or in fp32; NNCF's post-training quantization takes 15);
_BYTES_A_PARAMETER = 15
# and for each element of its largest weight, while that is worked on (measured: 43 with scale estimation).
_BYTES_OF_LARGEST = 45


class DataAwareJob(BaseModel):
    """One component for one method.

    Attributes:
        model_file: its float graph.
        calls: file with recorded inputs (`compiler.quantize.calibrate`).
        weights: (initializer, group, asymmetric) of each weight.
        out: a folder for `<number of the weight>.npz`.
    """

    model_file: str
    calls: str
    method: str
    weights: tuple[tuple[str, int, bool], ...]
    out: str


def memory_needed(parameters: int, largest: int) -> int:
    """Bytes at the peak for a component of so many parameters, and so many of them in its largest weight.

    What GPTQ holds of activations, a layer's inputs of all calls, is not among them.
    """
    return _BASE_MEMORY + _BYTES_A_PARAMETER * parameters + _BYTES_OF_LARGEST * largest


def require(component: str, needed: int, methods: Iterable[str]) -> None:
    """Nothing, where a component can be worked on here.

    Args:
        needed: see `memory_needed`.

    Raises:
        LatentcError: a package is not installed, or there is too little memory.
    """
    ordered = sorted(methods)
    names = ", ".join(ordered)
    for name in ordered:
        availability = method_table.get(name).available()
        if not availability.ok:
            raise LatentcError(
                f"int4 with method={names} cannot be had here: {availability.reason}.", availability.install
            )
    if short := memory.shortage(needed):
        raise LatentcError(
            f"int4 with method={names} holds all of '{component}' several times over: it takes about {short}.",
            f"Use int4 without a method, which holds one weight at a time: --quantize {component}=int4",
        )


def run(
    model_file: Path,
    calls: Path,
    method: str,
    weights: Sequence[Weight],
    out: Path,
    progress: Progress,
    folder: str,
) -> dict[str, Callable[[], ChosenValues]]:
    """Initializer -> reads what the method made of it, for those that it did not leave out.

    Args:
        model_file: the float graph.
        out: an empty folder that must stay until all is read.
        folder: the graph's, for messages.

    Raises:
        LatentcError: the method cannot work on the graph.
    """
    task = f"{folder}: {method} on {len(weights)} weights"
    progress(Event(task, 0, None))
    job = DataAwareJob(
        model_file=str(model_file),
        calls=str(calls),
        method=method,
        weights=tuple((w.name, w.group, w.asymmetric) for w in weights),
        out=str(out),
    )
    try:
        ask(f"{__name__}:compressing", job)
    except WorkerError as error:
        raise LatentcError(
            f"int4 with method={method} failed on '{folder}': {error.message}",
            f"Use int4 without a method: --quantize {folder}=int4",
        ) from error
    progress(Event(task, 1, 1))
    files = {weight.name: out / f"{number}.npz" for number, weight in enumerate(weights)}
    return {name: partial(_read, file) for name, file in files.items() if file.is_file()}


def _read(file: Path) -> ChosenValues:
    with np.load(file) as arrays:
        tensors = {name: arrays[name] for name in arrays.files}
    return ChosenValues(
        Blocks(tensors["values"], tensors["scale"], tensors.get("zero")), tensors.get("inputs")
    )


def work(job: DataAwareJob) -> dict[str, str]:
    """Compresses in this process; the answer is empty."""
    weights = [Weight(*fields) for fields in job.weights]
    calls = read_inputs(Path(job.calls))
    for weight, chosen in method_table.get(job.method).compress(Path(job.model_file), weights, calls):
        arrays = {name: array for name, array in vars(chosen).items() if array is not None}
        np.savez(Path(job.out) / f"{weights.index(weight)}.npz", **arrays)
    return {}


def compressing() -> Work:
    """The work of the compressor's process."""
    return lambda line: work(DataAwareJob.model_validate_json(line))
