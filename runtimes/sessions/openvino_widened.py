"""Weights of convolutions in a few bits, widened into a file that OpenVINO maps.

On a CPU, OpenVINO keeps the weights of matrix products in their 4 or 8 bits. Those of convolutions it widens to fp32
when it compiles a graph, keeps them so, and packs them for its kernels beside: 6.1 bytes a parameter in bf16. Of a file
that holds them in the type to compute in they stay mapped, and what is packed alone is the process's own: 2 bytes.
Kernels round weights to that type in any case.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.etree import ElementTree

from runtimes.sessions.openvino_graph import IrGraph

if TYPE_CHECKING:
    import numpy as np

_FORM = "widened-1"
"""The folder of such files in a cache; its number goes up when what they hold changes."""

# Type to compute in -> IR's name of the element type, and NumPy's.
_KINDS = {"bf16": ("bf16", "bfloat16"), "fp32": ("f32", "float32")}
_BYTES = {"bf16": 2, "fp32": 4}

_NARROW = re.compile(rb'element_type="(?:[iu]|nf|f)[1248][e"]')
_ALIGNMENT = 64


def widened(core: Any, model_file: Path, compute: str, folder: Path) -> Path:
    """The file to open in the place of `model_file`; that itself where it has no such weights, where activations are
    rounded to integers, whose kernels take weights of 8 bits as they are, or where the disk does not hold more.

    Args:
        compute: the type to compute in.
        folder: of this content alone. What is written there is used again.

    Raises:
        RuntimeError: OpenVINO refuses the file.
    """
    kept = folder / f"{_FORM}-{compute}"
    place = kept / model_file.parent.name / model_file.name
    if place.exists():
        return place
    text = model_file.read_bytes()
    if not _may_widen(text, compute):
        return model_file
    net = ElementTree.fromstring(text)
    graph = IrGraph(net)
    readers = graph.narrow_convolutions()
    if not readers:
        return model_file
    with suppress(OSError):
        work = Path(tempfile.mkdtemp(prefix=f"{_FORM}-", dir=folder))
        try:
            inner = work / model_file.parent.name
            inner.mkdir()
            with (
                model_file.with_suffix(".bin").open("rb") as stored,
                (inner / model_file.name).with_suffix(".bin").open("wb") as weights,
            ):
                _write(graph, stored, weights, _values(core, model_file, readers), _KINDS[compute])
                weights.flush()
                # A file without its content, after a loss of power, would draw wrong pictures.
                os.fsync(weights.fileno())
            ElementTree.ElementTree(net).write(inner / model_file.name, "utf-8", xml_declaration=True)
            with suppress(OSError):  # Another process was faster.
                work.rename(kept)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return place if place.exists() else model_file


def widened_bytes(model_file: Path, compute: str) -> int:
    """Of each element of the weights that `widened` widens; 0 where it leaves the file as it is."""
    return _BYTES[compute] if _may_widen(model_file.read_bytes(), compute) else 0


def _may_widen(text: bytes, compute: str) -> bool:
    return compute in _KINDS and b"FakeQuantize" not in text and bool(_NARROW.search(text))


def _values(core: Any, model_file: Path, readers: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of convolutions in fp32, one after the other: number in the file, and values.

    Args:
        readers: number in the file -> name.
    """
    import openvino as ov
    from openvino.passes import ConstantFolding, Manager

    model = core.read_model(model_file)
    operators = model.get_ops()
    named = Counter(node.get_friendly_name() for node in operators)
    nodes = {node.get_friendly_name(): node for node in operators}
    for number, name in readers.items():
        if named[name] != 1:
            continue
        source = nodes[name].input(1).get_source_output()
        # A copy of the chain, which shares its constants: folded within the model, all values would stay.
        chain = ov.Model([source], [], name).clone()
        manager = Manager()
        manager.register_pass(ConstantFolding())
        manager.run_passes(chain)
        folded = chain.get_results()[0].input(0).get_source_output().get_node()
        if folded.get_type_name() == "Constant" and folded.get_element_type() == ov.Type.f32:
            yield number, folded.data


def _write(
    graph: IrGraph,
    stored: BinaryIO,
    weights: BinaryIO,
    values: Iterator[tuple[str, np.ndarray]],
    kind: tuple[str, str],
) -> None:
    """Puts the values in the places of what they were computed of, and copies the other constants."""
    import ml_dtypes  # noqa: F401  so that NumPy knows bfloat16
    import numpy as np

    element_type, dtype = kind
    for number, array in values:
        narrowed = np.ascontiguousarray(array.astype(dtype)).view(np.uint8)
        graph.store_weights(number, element_type, _append(weights, narrowed), narrowed.nbytes)
    copied: dict[tuple[int, int], int] = {}  # Constants may lie in the same place.
    for data in graph.drop_unread():
        offset, size = int(data["offset"]), int(data["size"])
        if (offset, size) not in copied:
            stored.seek(offset)
            copied[offset, size] = _append(weights, stored.read(size))
        data["offset"] = str(copied[offset, size])


def _append(weights: BinaryIO, data: bytes | np.ndarray) -> int:
    """Where the data begins in the file."""
    weights.write(bytes(-weights.tell() % _ALIGNMENT))
    offset = weights.tell()
    weights.write(data if isinstance(data, bytes) else data.data.cast("B"))
    return offset
