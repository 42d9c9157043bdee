"""Reading `latentc.json`: parsed strictly, and checked for what its types do not say."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from artifacts import artifact_paths, strict_json
from artifacts.call_trees import MappingNode, ObjectNode, SequenceNode, Tree
from artifacts.command_words import quoted
from artifacts.element_count import MAX_RANK as MAX_SIZES
from artifacts.element_count import element_count
from artifacts.errors import LatentcError
from artifacts.hashing import is_sha256
from artifacts.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    SIGNATURE_NAME,
    TRUSTED_LIBRARIES,
    DimRange,
    FileRecord,
    Manifest,
    TensorSpec,
)
from artifacts.manifest_digest import digest_fault

MAX_MANIFEST = 16 << 20
"""Bytes. A manifest lists files, shapes and arguments; the largest pipelines need some hundred kilobytes."""

MAX_SIZE = 1 << 50
"""Bytes that one file may be said to have."""

MAX_FIGURE = 1 << 63
"""Of any whole number: what 64 bits hold, and all that is counted of an artifact fits into."""
MAX_SIDE = 1 << 16
"""Of what "sizes" declares: pixels of a side, images of a batch."""
MAX_PIXELS = 1 << 26
"""That the smallest batch of the smallest pictures has: it is drawn when nobody asks for another."""
MAX_DIMENSION = 1 << 40
MAX_RANK = 16
DTYPES = frozenset(
    {
        "bool",
        "float16",
        "bfloat16",
        "float32",
        "float64",
        *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
    }
)
"""Element types of what goes into a graph and comes out of it, by NumPy's names (ml_dtypes' for bfloat16)."""

_CLASS_PATH = re.compile(r"([A-Za-z_]\w*)(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
# Of a module or one in it ("decoder.layers.0.forward"; keys of a ModuleDict may hold a hyphen). Python's own names, and
# private ones, are nobody's to answer.
_METHOD = re.compile(r"([\w-]+\.)*[A-Za-z]\w*", re.ASCII)


def open_regular(path: Path, expected: os.stat_result) -> BinaryIO:
    """Opens a file for reading bytes, and only if it still is the regular file that `os.lstat` saw.

    Raises:
        OSError: it cannot be opened, or something else has taken its place.
    """
    # NONBLOCK: opening a FIFO that took its place must not wait for a writer.
    flags = os.O_RDONLY
    for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOINHERIT"):
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags)
    info = os.fstat(handle)
    # Windows' two calls do not agree on the numbers of device and file in all Python versions.
    same = os.name == "nt" or os.path.samestat(info, expected)
    if not (stat.S_ISREG(info.st_mode) and same):
        os.close(handle)
        raise OSError(f"{path} was replaced while it was read")
    return os.fdopen(handle, "rb", buffering=0)


def read_manifest(root: Path) -> Manifest:
    """The checked manifest of the artifact in the folder `root`; opens no other file.

    Raises:
        LatentcError: no such folder, no manifest in it, one of a newer latentc, or one that does not hold
            (the message names the field).
    """
    path = root / MANIFEST_NAME
    compile_first = f"Make an artifact with: latentc compile MODEL {quoted(root)} --target openvino"
    if not root.is_dir():
        fault = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise LatentcError(f"{root} {fault}; an artifact is a folder with a {MANIFEST_NAME}.", compile_first)
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        raise LatentcError(
            f"{root} is no latentc artifact: there is no {MANIFEST_NAME} in it.", compile_first
        ) from None
    if artifact_paths.is_link(info) or not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
        raise LatentcError(
            f"{path} is not a plain file (a link or a device), as in the hub's cache; an artifact is drawn with from "
            "plain files, which are verified.",
            "Get them: hf download OWNER/NAME --local-dir DIR, or copy what the links lead to: "
            f"cp -rL {quoted(root)} DIR",
        )
    if info.st_size > MAX_MANIFEST:
        raise LatentcError(f"{path} has {info.st_size} bytes; a manifest has at most {MAX_MANIFEST}.")
    try:
        with open_regular(path, info) as stream:
            data = stream.read(MAX_MANIFEST)
    except OSError as error:
        raise LatentcError(f"{path} cannot be read: {error.strerror or error}.") from error
    manifest = parse_manifest(data, str(path))
    check_manifest(manifest, str(path))
    return manifest


def parse_manifest(data: bytes, source: str) -> Manifest:
    """The manifest in `data`; `source` names the file in errors.

    Raises:
        LatentcError: not strict JSON, of a newer schema, of another digest, or a field is missing, unknown or of a
            wrong type, or a figure that nothing has.
    """
    value = strict_json.loads(data, source)
    if not isinstance(value, dict):
        raise LatentcError(f"{source} is not a manifest: it holds no JSON object.")
    version = value.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        tools = value.get("toolchain")
        maker = tools.get("latentc") if isinstance(tools, dict) else None
        producer = f"latentc {maker}" if isinstance(maker, str) and maker.isprintable() else "a newer latentc"
        raise LatentcError(
            f"{source} has schema version {version} and was made by {producer}; "
            f"this latentc reads up to {SCHEMA_VERSION}.",
            f'Upgrade: pip install "latentc>={maker}"'
            if producer != "a newer latentc"
            else "Upgrade latentc.",
        )
    for figure in _integers(value):
        if abs(figure) > MAX_FIGURE:
            raise LatentcError(f"{source} is damaged: {_brief(figure)} is no figure of an artifact.")
    if fault := digest_fault(data, version, value.get("digest")):
        raise LatentcError(
            f"{source} is damaged: {fault}.",
            "Compile the model again, or fetch the artifact again from where it came.",
        )
    if version == 1 and not isinstance(version, bool):
        data = json.dumps(_listed_evidence(value)).encode()
    try:
        return Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        field = ".".join(str(step) for step in faults[0]["loc"])
        more = f" ({len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise LatentcError(
            f"{source} is damaged, at {artifact_paths.shown(field)}: {faults[0]['msg']}{more}.",
            "Compile the model again.",
        ) from None


def _listed_evidence(value: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema version 1 as one of version 2; what is not as version 1 had it is left for validation."""
    graphs, pictures = value.get("graphs"), value.get("pictures")
    changed = {**value, "schema_version": 2}
    if isinstance(graphs, list):
        changed["graphs"] = [
            {**graph, "evidence": [graph["evidence"]]}
            if isinstance(graph, dict) and isinstance(graph.get("evidence"), dict)
            else graph
            for graph in graphs
        ]
    if pictures is None:
        changed.pop("pictures", None)
    elif isinstance(pictures, dict):
        changed["pictures"] = [pictures]
    return changed


def split_class_path(path: str) -> tuple[str, str]:
    """("diffusers.models.x", "Y") of "diffusers.models.x:Y".

    Importing the module and finding a class there is the caller's part; so is to see that what it found is a
    class which that library itself defines, since a module's namespace also holds what it imported.

    Raises:
        LatentcError: not of that form, or not of one of `TRUSTED_LIBRARIES`.
    """
    match = _CLASS_PATH.fullmatch(path)
    if match is None:
        raise LatentcError(
            f"{artifact_paths.shown(path)} is not a class path like 'diffusers.models.unets:UNet'."
        )
    if match[1] not in TRUSTED_LIBRARIES:
        trusted = ", ".join(sorted(TRUSTED_LIBRARIES))
        raise LatentcError(f"{artifact_paths.shown(path)} is not a class of a trusted library ({trusted}).")
    module, _, name = path.partition(":")
    return module, name


def check_manifest(manifest: Manifest, source: str) -> None:
    """Checks what the types do not say: names of files, hashes, ranges, references, trusted classes.

    Raises:
        LatentcError: names the first field that does not hold; `source` names the file.
    """
    for field, problem in _faults(manifest):
        raise LatentcError(f"{source} is damaged, at {field}: {problem}.", "Compile the model again.")


def _faults(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield from _file_faults(manifest)
    if not manifest.pipelines:
        yield "pipelines", "there is none"
    for task, path in manifest.pipelines.items():
        yield from _class_faults(f"pipelines.{artifact_paths.shown(task)}", path)
    yield from _range_faults("sizes", manifest.sizes)
    yield from _size_faults(manifest.sizes)
    listed = {file.path for file in manifest.files}
    folders = {graph.folder for graph in manifest.graphs}
    if len(folders) != len(manifest.graphs):
        yield "graphs", "two graphs have one folder"
    for i, graph in enumerate(manifest.graphs):
        at = f"graphs.{i}"
        if fault := artifact_paths.fault(graph.folder):
            yield f"{at}.folder", f"{artifact_paths.shown(graph.folder)} {fault}"
        if graph.model_file not in listed or not graph.model_file.startswith(f"{graph.folder}/"):
            yield (
                f"{at}.model_file",
                f"{artifact_paths.shown(graph.model_file)} is not a listed file of the graph's folder",
            )
        yield from _range_faults(f"{at}.dims", graph.dims)
        for kind, specs in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            yield from _spec_faults(f"{at}.{kind}", specs)
    names = [component.name for component in manifest.components]
    if len(set(names)) != len(names):
        yield "components", "two components have one name"
    for i, component in enumerate(manifest.components):
        at = f"components.{i}"
        yield from _class_faults(f"{at}.class_path", component.class_path)
        for field, file in (("config", component.config), ("residual", component.residual)):
            if file is not None and file not in listed:
                yield f"{at}.{field}", f"{artifact_paths.shown(file)} is not a listed file"
        if component.config.rpartition("/")[2] != "config.json":
            yield f"{at}.config", f"{artifact_paths.shown(component.config)} is not called config.json"
        for j, method in enumerate(component.methods):
            if not _METHOD.fullmatch(method.method):
                yield f"{at}.methods.{j}.method", f"{artifact_paths.shown(method.method)} is no public method"
            if method.graph not in folders:
                yield (
                    f"{at}.methods.{j}.graph",
                    f"there is no graph with the folder {artifact_paths.shown(method.graph)}",
                )
            others = () if method.other_result is None else (method.other_result,)
            for tree in (*method.arguments.values(), method.result, *others):
                for path in _class_paths(tree):
                    yield from _class_faults(f"{at}.methods.{j}", path)


def _file_faults(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for i, file in enumerate(manifest.files):
        if fault := artifact_paths.fault(file.path):
            yield f"files.{i}.path", f"{artifact_paths.shown(file.path)} {fault}"
        yield from _record_faults(f"files.{i}", file)
    for first, second in artifact_paths.clashes(
        (MANIFEST_NAME, SIGNATURE_NAME, *(file.path for file in manifest.files))
    ):
        yield (
            "files",
            f"{artifact_paths.shown(first)} and {artifact_paths.shown(second)} are one file on some systems",
        )
    for i, file in enumerate(manifest.source.weights):
        yield from _record_faults(f"source.weights.{i}", file)


def _record_faults(at: str, file: FileRecord) -> Iterator[tuple[str, str]]:
    if not is_sha256(file.sha256):
        yield f"{at}.sha256", "not 64 lowercase hexadecimal digits"
    if not 0 <= file.size <= MAX_SIZE:
        yield f"{at}.size", f"{file.size} is no size of a file"


def _range_faults(at: str, ranges: dict[str, DimRange]) -> Iterator[tuple[str, str]]:
    for name, dim in ranges.items():
        if not 0 <= dim.min <= dim.max:
            yield f"{at}.{artifact_paths.shown(name)}", f"{dim.min}..{dim.max} is no range"
        if dim.step < 1:
            yield f"{at}.{artifact_paths.shown(name)}", f"{dim.step} is no step"


def _size_faults(sizes: dict[str, DimRange]) -> Iterator[tuple[str, str]]:
    if len(sizes) > MAX_SIZES:
        yield "sizes", f"there are {len(sizes)}; at most {MAX_SIZES} can be"
    for name, size in sizes.items():
        if size.max > MAX_SIDE:
            yield f"sizes.{artifact_paths.shown(name)}", f"{size.max} is more than {MAX_SIDE}"
    if element_count([size.min for size in sizes.values()]) > MAX_PIXELS:
        yield "sizes", f"the smallest pictures have more than {MAX_PIXELS} pixels"


def _spec_faults(at: str, specs: tuple[TensorSpec, ...]) -> Iterator[tuple[str, str]]:
    if len({spec.name for spec in specs}) != len(specs):
        yield at, "two have one name"
    for i, spec in enumerate(specs):
        if spec.dtype not in DTYPES:
            yield f"{at}.{i}.dtype", f"{artifact_paths.shown(spec.dtype)} is no type of elements"
        if len(spec.shape) > MAX_RANK or not all(
            0 <= size <= MAX_DIMENSION for size in spec.shape if isinstance(size, int)
        ):
            yield f"{at}.{i}.shape", "is no shape of a tensor"


def _integers(value: Any) -> Iterator[int]:
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, int):
            yield inner
        elif isinstance(inner, (dict, list)):
            pending += inner.values() if isinstance(inner, dict) else inner


def _brief(figure: int) -> str:
    return f"a whole number of {figure.bit_length()} bits"


def _class_faults(at: str, path: str) -> Iterator[tuple[str, str]]:
    try:
        split_class_path(path)
    except LatentcError as error:
        yield at, error.message.removesuffix(".")


def _class_paths(tree: Tree) -> Iterator[str]:
    pending: list[Any] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ObjectNode):
            yield node.class_path
        if isinstance(node, SequenceNode):
            pending += node.items
        elif isinstance(node, (ObjectNode, MappingNode)):
            pending += node.items.values()
