"""What the files of this target hold."""

from __future__ import annotations

from targets.file_format import FileFormat

# OpenVINO's own operator sets. What an extension adds has another, and so have operators that are being tried out.
FORMAT = FileFormat(
    ".xml",
    {f"opset{number}": None for number in range(1, 17)},
    never=frozenset({"If", "Loop", "TensorIterator", "Assign", "ReadValue"}),
)
