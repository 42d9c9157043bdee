"""The structure of an OpenVINO IR, looked at before OpenVINO sees it: operators, and where weights lie."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from xml.parsers import expat

from artifacts.element_count import MAX_RANK, element_count
from artifacts.errors import LatentcError
from targets.file_format import FileFormat

MAX_FILE = 128 << 20
"""Bytes. The largest graphs have some ten million."""
MAX_ELEMENTS = 2_000_000
"""Of XML. The largest graphs have some 500,000."""

# What a layer is made of. A graph inside of one would be a "body", a "then_body" or an "else_body".
_PARTS = frozenset({"data", "input", "output", "rt_info"})
_HINT = "The file is damaged, or not one of latentc's: compile the model again."
_BITS = re.compile(r"(?:f|bf|i|u|nf)(\d{1,2})(?:e\dm\d)?")
# In a cache folder of the files' content: these files were looked at, by these rules.
_MARK = "structure"
_RULES = 2
"""Goes up when what is looked at changes."""


def check_openvino(
    model_file: Path, form: FileFormat, cache_dir: Path | None = None, weights: Path | None = None
) -> None:
    """Holds a file to what its target writes, with each constant inside of its weights.

    Memory: the file itself, of at most `MAX_FILE` bytes.

    Args:
        cache_dir: a folder for exactly these files' content, as a session has it: it keeps that they were looked at.
        weights: the file of constants; None for the ``.bin`` beside it.

    Raises:
        LatentcError: not an IR; an operator that is not OpenVINO's own, or that the target does not write; graphs
            inside of layers; or constants that do not lie in the weights, which must be a plain file.
    """
    if model_file.suffix != form.suffix:
        raise LatentcError(f"{model_file} is no {form.suffix} file, as its target writes.", _HINT)
    weights = weights or model_file.with_suffix(".bin")
    for file in (model_file, weights):
        if file.is_symlink() or not (file.is_file() or (file == weights and not file.exists())):
            raise LatentcError(f"{file} is not a plain file.")
    mark = None if cache_dir is None else cache_dir / _MARK
    rules = hashlib.sha256(f"{_RULES} {sorted(form.operators)} {sorted(form.never)}".encode()).hexdigest()
    with suppress(OSError, UnicodeDecodeError):
        if mark is not None and mark.read_text(encoding="ascii") == rules:
            return
    if (size := model_file.stat().st_size) > MAX_FILE:
        raise LatentcError(
            f"{model_file} has {size} bytes; a graph without its weights has at most {MAX_FILE}."
        )
    _Walk(model_file, form, weights.stat().st_size if weights.exists() else 0).walk(model_file.read_bytes())
    with suppress(OSError):  # A folder that cannot be written costs time, not function.
        if mark is not None:
            mark.write_text(rules, encoding="ascii")


class _Walk:
    def __init__(self, model_file: Path, form: FileFormat, weights: int) -> None:
        self._file, self._form, self._weights = model_file, form, weights
        self._path: list[str] = []
        self._layer: dict[str, str] = {}
        self._is_const = False
        self._stored = 0

    def walk(self, data: bytes) -> None:
        # OpenVINO offers a file that it does not know to all its frontends, TensorFlow's and PyTorch's too. Its XML
        # parser is another than ours: what the two could understand differently is refused.
        if not data.lstrip().startswith((b"<?xml", b"<net")) or b"\0" in data:
            raise LatentcError(f"{self._file} is not an OpenVINO model.", "See: latentc verify ARTIFACT")
        if b"<!" in data or data.count(b"<?") > 1:
            raise self._refused("declarations of XML")
        if data.count(b"<") > 2 * MAX_ELEMENTS:
            raise self._refused(f"more than {MAX_ELEMENTS} elements")
        parser = expat.ParserCreate("utf-8")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise LatentcError(f"{self._file} is not an OpenVINO model: {error}", _HINT) from error

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        path = self._path
        depth = len(path)
        if depth == 0 and tag != "net":
            raise self._refused(f"{tag!a} in the place of a network")
        if depth == 2 and path[1] == "layers":
            kind = attributes.get("type", "")
            if tag != "layer" or self._form.refuses(attributes.get("version", ""), kind):
                raise self._refused(f"the operator {kind!a} of {attributes.get('version', '')!a}")
            self._layer, self._is_const, self._stored = attributes, kind == "Const", 0
        elif depth == 3 and path[1] == "layers":
            if tag not in _PARTS:
                raise self._refused(f"{tag!a} in the layer {self._layer.get('name')!a}")
            if self._is_const and tag == "data":
                self._stored += _fits(attributes, self._weights)
        elif tag in ("layer", "layers") and (tag == "layer" or depth != 1):
            raise self._refused("layers inside of others")
        path.append(tag)

    def _end(self, tag: str) -> None:
        self._path.pop()
        if self._is_const and len(self._path) == 2:
            self._is_const = False
            if self._stored != 1:
                raise self._refused(
                    f"the constant {self._layer.get('name')!a} outside of its {self._weights} bytes of weights"
                )

    def _refused(self, content: str) -> LatentcError:
        return LatentcError(f"{self._file} holds {content}, which its target does not write.", _HINT)


def _fits(data: dict[str, str], weights: int) -> bool:
    """Whether a constant lies in the file of weights, and is as large as its shape."""
    kind = data.get("element_type", "")
    bits = 8 if kind == "boolean" else int(match[1]) if (match := _BITS.fullmatch(kind)) else 0
    shape = [text.strip() for text in data.get("shape", "").split(",") if text.strip()]
    offset, size = data.get("offset", ""), data.get("size", "")
    if (
        not bits
        or len(shape) > MAX_RANK
        or not all(t.isascii() and t.isdigit() and len(t) < 20 for t in (*shape, offset, size))
    ):
        return False
    needed = -(-element_count([int(text) for text in shape]) * bits // 8)
    return needed <= int(size) and int(offset) + int(size) <= weights
