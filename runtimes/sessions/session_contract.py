"""The contract of a session: one opened graph, arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from artifacts.errors import LatentcError
from artifacts.manifest import Built, TensorSpec

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Device:
    """One device that a vendor can run on here.

    Attributes:
        name: what `--device` takes ("cpu", "gpu.0").
        note: what a user is told when it is what runs, such as that it stands in for another.
        computes: the types that it computes in natively, of "fp32", "fp16" and "bf16"; first the one that graphs
            are computed in by default. Empty where graphs are typed themselves, and nothing is to be chosen.
        on_host: whether it computes with the host's own processor, so that the time of this process's threads is what a
            call takes.
    """

    name: str
    description: str
    note: str = ""
    computes: tuple[str, ...] = ()
    on_host: bool = False


class Refused(LatentcError):
    """A vendor did not open or run a graph on a device: an operator, a type, memory. Another device may."""


class NotStarted(Refused):
    """A device that is listed, and which this machine does not have, or not the libraries for."""


class Session(Protocol):
    """One opened graph. Dtypes and names are those of `inputs` and `outputs`; shapes must fit their specs.

    It may be an `OpensLater` or a `Releases`, too.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    device: str
    """The name of the device that it was opened on; never "auto"."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph once.

        Args:
            inputs: one C-contiguous array for each of `self.inputs`, 0-d arrays included.

        Returns:
            One array for each of `self.outputs`. They are the caller's: a later run does not overwrite them.

        Raises:
            Refused: the vendor failed.
            LatentcError: the inputs are not the graph's.
        """

    def close(self) -> None:
        """Frees the vendor's objects; the session cannot be used afterwards. Twice is harmless."""


@runtime_checkable
class OpensLater(Protocol):
    """What a session is, too, whose `run` may open files of the artifact."""

    @property
    def opens_later(self) -> bool:
        """True."""


@runtime_checkable
class Releases(Protocol):
    """What a session is, too, that keeps the memory which a call computed in."""

    def release(self) -> bool:
        """Gives that memory back until the next call; returns whether it could."""


@dataclass(frozen=True)
class Contents:
    """What a graph's file stores, whatever is said of it elsewhere.

    Attributes:
        constants: element type of the constants ("float16", "uint4", "nf4") -> how many elements there are of it.
        quantizes: whether activations are rounded to integers in it.
    """

    constants: Mapping[str, int]
    quantizes: bool


@dataclass(frozen=True)
class GraphNode:
    """One operation of a graph's file, between values that are not constant.

    Attributes:
        kind: ONNX's op_type of the operator, whatever the file calls it; the file's own name for one that ONNX lacks.
        inputs: of values and constants, by name; empty for one that is left out.
        attributes: those that are numbers; ``axis``, ``dilations``, ``strides``, ``epsilon`` and ``num_groups`` are
            called as in ONNX.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, float]


@dataclass(frozen=True)
class Structure:
    """The nodes of a graph's file and the values between them.

    Attributes:
        nodes: in an order in which they can run; what is computed of constants alone is none of them.
        shapes: of values and constants, where the file tells; None for a dimension that varies.
        weights: constant -> bytes.
        inputs, outputs: the graph's own.
    """

    nodes: tuple[GraphNode, ...]
    shapes: Mapping[str, tuple[int | None, ...]]
    weights: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        """Of the constants that nodes read: what these are computed of is not counted beside."""
        read = {name for node in self.nodes for name in node.inputs}
        return sum(count for name, count in self.weights.items() if name in read)


class GraphFormat(Protocol):
    """How a kind of graph file is looked into, so that what it stores can be told and an error in it located.

    `structure` and `extract` are for factories that are `OpensParts`.
    """

    def values(self, model_file: Path) -> tuple[str, ...]:
        """Names of the values between the graph's nodes that can be made outputs, in no particular order."""

    def contents(self, model_file: Path) -> Contents:
        """What the file stores; no weight is read."""

    def structure(self, model_file: Path) -> Structure:
        """The nodes and values of the file, the operators by ONNX's names; no weight is read."""

    def extract(self, model_file: Path, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """The part of the graph that makes `outputs` of `inputs`, under these names, as a file of its kind; its weights
        stay in the files beside `model_file`. No file is written.

        Args:
            inputs, outputs: values of `structure`. What a part needs beside `inputs` are constants.
        """

    def with_outputs(self, model_file: Path, names: Sequence[str], folder: Path) -> Path:
        """Writes the graph with further outputs, after its own, into the empty folder `folder`.

        Weights are not copied where the file system can link them.

        Args:
            names: of `values`, in the order in which they become outputs, under these names.

        Returns:
            The file, which the factory opens as it opens `model_file`.
        """


class SessionFactory(Protocol):
    """What a file of `runtimes/` offers as SESSION; `runtimes.sessions.session_table` names it.

    It may be more, by a protocol each: `RunsCode`, `ExplainsDevice`, `OpensParts`, `ReplacesFile` and `BringsFormat`,
    which stand below, `runtimes.sessions.exact_sizes.TakesSizes` and `runtimes.sessions.file_constants.TakesConstants`.
    """

    target: str

    def devices(self) -> tuple[Device, ...]:
        """What is here; empty when the vendor's package is missing."""

    def lacks(self, built: Built) -> str:
        """What this machine lacks to run a graph, in a few words ("a GPU of sm89"); empty when nothing.

        Args:
            built: what the target said of the graph's files.
        """

    def open(
        self,
        model_file: Path,
        device: str,
        compute: str,
        cache_dir: Path | None,
        built: Built | None = None,
    ) -> Session:
        """Opens one graph.

        Args:
            model_file: the graph's file, already verified. Its structure is held to the target's own `FileFormat`
                before the vendor's parser sees it.
            device: a name from `devices`, or "auto".
            compute: what to compute in ("fp32", "fp16", "bf16"): one that `runtimes.compute.natively` gives for the
                device. Where that gives only one, it changes nothing.
            cache_dir: where compiled blobs may be kept between starts, or None for nowhere.
            built: what the target said of the graph's files, as the manifest keeps it.

        Raises:
            Refused: the vendor refused the file on this device.
            LatentcError: no such device, or the file is not the target's.
        """


@runtime_checkable
class RunsCode(Protocol):
    """What a session factory is, too, whose files are code, which the vendor executes.

    Those alone are opened that the user trusts (`artifacts.trusted_engines`).
    """

    @property
    def runs_code(self) -> bool:
        """True."""


@runtime_checkable
class ExplainsDevice(Protocol):
    """What a session factory is, too, that can say more of a device that is not here than that it is not."""

    def check_device(self, name: str) -> None:
        """Raises LatentcError where it knows why the device is not here."""


@runtime_checkable
class OpensParts(Protocol):
    """What a session factory is, too, that can open a part of a graph.

    Graphs of others are not divided: pictures are made in tiles that do not know of each other, and no graph runs in
    parts.
    """

    def open_part(
        self, part: bytes, model_file: Path, device: str, compute: str, narrow: Collection[str] = ()
    ) -> Session:
        """Opens a part of a graph, as `GraphFormat.extract` gives it.

        Args:
            model_file: the whole graph's, or what stands in its place (`ReplacesFile`).
            device, compute: as of `SessionFactory.open`.
            narrow: inputs and outputs of the part that may be handed over in the type that it computes in.

        Raises:
            Refused: the vendor refused the part on this device.
            LatentcError: no such device, or the part is not the target's.
        """


@runtime_checkable
class ReplacesFile(Protocol):
    """What a session factory is, too, that opens another file than the artifact's own, as that takes less memory.

    Parts are opened of that file.
    """

    def file_to_open(self, model_file: Path, device: str, compute: str, folder: Path) -> Path:
        """Writes the file in `folder`, if it is not there, and returns it; `model_file` where that is opened itself.

        Args:
            folder: for this content and type alone.

        Raises:
            LatentcError: no such device, or the vendor refused the file.
        """

    def structure_to_open(self, model_file: Path, device: str, compute: str) -> Structure:
        """The structure of that file, without writing it."""


@runtime_checkable
class BringsFormat(Protocol):
    """What a session factory is, too, whose graphs are not ONNX files.

    Without it an error in a graph of such a kind is measured at the graph's outputs alone.
    """

    @property
    def format(self) -> GraphFormat:
        """How its files are looked into."""
