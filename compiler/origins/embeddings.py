"""Textual inversions: tokens that a tokenizer learns, and the rows that they have in a text encoder's table."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from artifacts.contents import Contents
from artifacts.errors import LatentcError
from artifacts.manifest import Embedding
from artifacts.named_files import no_file
from artifacts.safetensors_header import require_safetensors
from compiler.origins.computed import Computed
from compiler.origins.stored_file import stored_tensors
from compiler.origins.weight_files import Rows
from runtimes.pipeline_parts import SUFFIXES, make_part
from runtimes.spare_tokens import token_of, vector_names
from targets.graph.weights import Origin, Stored


def read(embedding: Embedding) -> tuple[str, list[Stored]]:
    """The token of a file, and its tensors [vectors, width] or [width].

    Raises:
        LatentcError: it cannot be read, is not finite, or names no token.
    """
    path = Path(embedding.file)
    if not path.is_file():
        raise LatentcError(*no_file("--embedding", path))
    require_safetensors(path)
    tensors = stored_tensors([path])
    vectors = [tensor for tensor in tensors.values() if len(tensor.shape) in (1, 2) and 0 not in tensor.shape]
    if not vectors or len(vectors) != len(tensors):
        raise LatentcError(
            f"--embedding: {path} is no textual inversion: it holds {', '.join(tensors) or 'nothing'}."
        )
    for tensor in vectors:
        tensor.read()  # which refuses what is not finite
    return embedding.token or token_of(tensors, path), vectors


def tokenizer_files(
    files: Contents, name: str, cls: Any, token: str, count: int
) -> tuple[dict[str, bytes], int]:
    """A tokenizer's files with a token of `count` vectors more, and the id of the first.

    Args:
        files: the model's.
        name: the tokenizer's folder in them.

    Raises:
        LatentcError: it has the token already.
    """
    tokenizer = make_part(files, name, cls)
    tokens = vector_names(token, count)
    vocabulary = tokenizer.get_vocab()
    for item in tokens:
        if item in vocabulary:
            raise LatentcError(
                f"--embedding: the token '{item}' exists in '{name}' already.",
                "Give it another name: --embedding FILE:TOKEN",
            )
    tokenizer.add_tokens(tokens)
    with tempfile.TemporaryDirectory(prefix="latentc-") as folder:
        tokenizer.save_pretrained(folder)
        saved = {
            f"{name}/{path.name}": path.read_bytes()
            for path in sorted(Path(folder).iterdir())
            if path.suffix in SUFFIXES
        }
    return saved, int(tokenizer.convert_tokens_to_ids(token))


def extended(table: Origin, rows: tuple[Rows, ...]) -> Origin:
    """The table with the rows in their places, in float32."""
    size = max(table.shape[0], *(part.end for part in rows))
    starts = tuple(part.start for part in rows)
    arguments = (table, tuple(part.tensor for part in rows), starts, size)
    return Computed(_with_rows, arguments, (), None, ir.DataType.FLOAT, (size, table.shape[1]), table.key)


def _with_rows(
    table: torch.Tensor, rows: tuple[torch.Tensor, ...], starts: tuple[int, ...], size: int
) -> torch.Tensor:
    result = torch.zeros(size, table.shape[1])
    result[: table.shape[0]] = table
    for tensor, start in zip(rows, starts, strict=True):
        vectors = tensor.float().reshape(-1, table.shape[1])
        result[start : start + len(vectors)] = vectors
    return result


def table_size(config: bytes) -> tuple[int, int] | None:
    """Rows and width of a text encoder's table, as its configuration has them; None where it has none."""
    settings: Mapping[str, Any] = json.loads(config)
    rows, width = settings.get("vocab_size"), settings.get("hidden_size", settings.get("d_model"))
    return (rows, width) if isinstance(rows, int) and isinstance(width, int) else None
