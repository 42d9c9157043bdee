"""The structure of an ONNX file, looked at before a vendor's parser sees it: operators, and where weights lie.

The file's protobuf is walked by its tags alone. No message is built, so that a small file cannot grow large in memory,
and what is walked is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from artifacts.element_count import element_count
from artifacts.errors import LatentcError
from targets.file_format import FileFormat

MAX_FILE = 256 << 20
"""Bytes. Weights lie beside the file: the largest graphs have some ten million."""
MAX_FIELDS = 4_000_000
"""Of all messages together. The largest graphs have some 300,000."""
OPAQUE = 16
"""Bytes of what is passed over that count as one field."""

# Bits of ONNX's element types, by number (onnx.TensorProto.DataType). Texts (8) are not among them.
BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
EXTERNAL = 1
PLACE = frozenset({"location", "offset", "length", "checksum"})
"""What may be said of weights in another file. ONNX Runtime reads more of it, as operators' own forms of weights
("prepacked_..."), whose places nothing here looks at."""

_HINT = "The file is damaged, or not one of latentc's: compile the model again."


def check_onnx(model_file: Path, form: FileFormat) -> None:
    """Holds a file to what its target writes, with each tensor in it or in a plain file beside it.

    Memory: the file itself, of at most `MAX_FILE` bytes.

    Raises:
        LatentcError: not an ONNX file; an operator or a domain that the target does not write; graphs in nodes,
            functions, texts; or weights that are not where they may be: their place is no plain file name, is a link,
            is missing, or ends before the tensor does.
    """
    if model_file.suffix != form.suffix:
        raise LatentcError(f"{model_file} is no {form.suffix} file, as its target writes.", _HINT)
    if model_file.is_symlink() or not model_file.is_file():
        raise LatentcError(f"{model_file} is not a plain file.")
    if (size := model_file.stat().st_size) > MAX_FILE:
        raise LatentcError(
            f"{model_file} has {size} bytes; a graph without its weights has at most {MAX_FILE}."
        )
    try:
        _Walk(model_file, form).model()
    except (IndexError, ValueError, OverflowError) as error:
        raise LatentcError(f"{model_file} is not an ONNX file: {error}", _HINT) from error


class _Walk:
    def __init__(self, model_file: Path, form: FileFormat) -> None:
        self._file, self._form = model_file, form
        self._data = model_file.read_bytes()
        self._fields = 0
        self._sizes: dict[str, int] = {}

    def model(self) -> None:
        graphs = 0
        for number, start, end in self._messages(0, len(self._data)):
            if number == 7:
                graphs += 1
                self._graph(start, end)
            elif number in (20, 25):
                raise self._refused("training information" if number == 20 else "functions")
            else:
                self._pass_over(end - start)
        if graphs != 1:
            raise ValueError(f"it holds {graphs} graphs")

    def _graph(self, start: int, end: int) -> None:
        for number, first, last in self._messages(start, end):
            if number == 1:
                self._node(first, last)
            elif number == 5:
                self._tensor(first, last)
            elif number == 15:
                raise self._refused("sparse tensors")
            else:
                self._pass_over(last - first)

    def _node(self, start: int, end: int) -> None:
        operators, domains = [], []
        for number, first, last in self._messages(start, end):
            if number == 5:
                self._attribute(first, last)
            elif number == 4:
                operators.append(self._text(first, last))
            elif number == 7:
                domains.append(self._text(first, last))
            else:
                self._pass_over(last - first)
        if len(operators) != 1 or len(domains) > 1:
            raise ValueError("a node has no operator, or several")
        domain, operator = (domains or [""])[0], operators[0]
        if self._form.refuses(domain, operator):
            raise self._refused(f"the operator {operator!a} of {domain or 'ai.onnx'!a}")

    def _attribute(self, start: int, end: int) -> None:
        for number, first, last in self._messages(start, end):
            if number in (6, 11):
                raise self._refused("a graph inside of a node")
            if number in (22, 23):
                raise self._refused("sparse tensors")
            if number in (5, 10):
                self._tensor(first, last)
            else:
                self._pass_over(last - first)

    def _tensor(self, start: int, end: int) -> None:
        dims: list[int] = []
        kind, location, name = 0, 0, ""
        external: dict[str, str] = {}
        position = start
        while position < end:
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                value, position = self._varint(position, end)
                if number == 1:
                    dims.append(value)
                elif number == 2:
                    kind = value
                elif number == 14:
                    location = value
                continue
            first, position = self._bounds(wire, position, end)
            if wire == 2 and number == 1:  # Packed, as newer writers may have it.
                at = first
                while at < position:
                    value, at = self._varint(at, position)
                    dims.append(value)
            elif wire == 2 and number == 13:
                key, value_text = self._entry(first, position)
                external[key] = value_text
            elif number == 8:
                name = self._text(first, position)
            elif number in (3, 6):
                raise self._refused("tensors in segments, or of texts")
            else:
                self._pass_over(position - first)
        if kind not in BITS:
            raise self._refused(f"elements of type {kind} in {name!a}")
        bits = element_count(dims) * BITS[kind]
        if location == EXTERNAL:
            self._outside(name, external, -(-bits // 8))

    def _outside(self, name: str, external: dict[str, str], needed: int) -> None:
        if others := sorted(external.keys() - PLACE):
            raise self._refused(f"external data of {name!a} that says {others[0]!a}")
        location = external.get("location", "")
        if location not in self._sizes:
            self._sizes[location] = _size(self._file, location)
        texts = external.get("offset", "0"), external.get("length", "0")
        if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in texts):
            raise LatentcError(f"{self._file}: the external data of {name!a} has no valid offset.", _HINT)
        start, length = map(int, texts)
        end = start + max(length, needed)
        if end > self._sizes[location]:
            raise LatentcError(
                f"{self._file}: {name!a} is at bytes {start} to {end} of {location}, which has "
                f"{self._sizes[location]}.",
                _HINT,
            )

    def _entry(self, start: int, end: int) -> tuple[str, str]:
        texts = {number: self._text(first, last) for number, first, last in self._messages(start, end)}
        return texts.get(1, ""), texts.get(2, "")

    def _text(self, start: int, end: int) -> str:
        return self._data[start:end].decode()

    def _messages(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Each field of a message: its number, and where its content begins and ends."""
        position = start
        while position < end:
            tag, position = self._varint(position, end)
            first, position = self._bounds(tag & 7, position, end)
            yield tag >> 3, first, position

    def _bounds(self, wire: int, position: int, end: int) -> tuple[int, int]:
        """Where a field's content begins and ends."""
        first = position
        if wire == 2:
            length, first = self._varint(position, end)
            last = first + length
        elif wire == 0:
            _, last = self._varint(position, end)
        elif wire in (1, 5):
            last = first + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"there is a field of kind {wire}")
        if last > end:
            raise ValueError("a field is longer than what holds it")
        return first, last

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise self._refused(f"more than {MAX_FIELDS} fields")
        value = self._data[position]
        if value < 128:
            if position >= end:
                raise ValueError("a number is cut off")
            return value, position + 1
        value &= 127
        for count in range(1, 10):
            byte = self._data[position + count]
            value |= (byte & 127) << 7 * count
            if byte < 128:
                if position + count >= end:
                    raise ValueError("a number is cut off")
                return value, position + count + 1
        raise ValueError("a number has more than 64 bits")

    def _pass_over(self, size: int) -> None:
        self._fields += size // OPAQUE
        if self._fields > MAX_FIELDS:
            raise self._refused(f"more than {MAX_FIELDS} fields")

    def _refused(self, content: str) -> LatentcError:
        return LatentcError(f"{self._file} holds {content}, which its target does not write.", _HINT)


def _size(model_file: Path, location: str) -> int:
    plain = location not in ("", ".", "..") and ":" not in location and "\0" not in location
    if not plain or location != PurePosixPath(location).name or location != PureWindowsPath(location).name:
        raise LatentcError(
            f"{model_file}: weights at {location!a}; only a plain name of a file beside it is allowed."
        )
    path = model_file.parent / location
    if path.is_symlink() or not path.is_file():
        raise LatentcError(f"{model_file}: its weights, {path.name}, are not a plain file beside it.")
    return path.stat().st_size
