"""Tokens that a compiled text encoder learns when it runs: their vectors are an input of its graph.

A textual inversion is a token and its vectors. A text encoder that was compiled for some looks tokens from a first id
on up in a table of their own, which is set on its embedding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.error_text import one_line
from artifacts.errors import LatentcError, UsageError
from artifacts.named_files import no_file
from artifacts.safetensors_header import require_safetensors
from runtimes import settings
from runtimes.text_encoders import pairs

if TYPE_CHECKING:
    import torch

INPUT = "spare_tokens"
"""The input of a graph: the vectors [tokens, width]."""

HINT = "Compile for some: --spare-tokens N; or put them in at the compile: --embedding FILE"

# Keys that say nothing of the token: of files that are made of one tensor, or of one for each encoder.
_UNNAMED = frozenset({"emb_params", "string_to_param", "*", "clip_l", "clip_g", "t5"})

_ATTRIBUTE = "spare"
_FIRST = "first_spare"


def put(encoder: torch.nn.Module, first: int, count: int) -> None:
    """Has the embedding of `encoder` look tokens from the id `first` on up in `count` rows, zeros at first."""
    import torch

    embedding: Any = encoder.get_input_embeddings()  # type: ignore[operator]
    cls = type(embedding)

    def forward(self: Any, ids: torch.Tensor) -> torch.Tensor:
        rows = getattr(self, _ATTRIBUTE)
        regular = torch.nn.functional.embedding(ids.clamp(max=self.num_embeddings - 1), self.weight)
        spare = torch.nn.functional.embedding((ids - first).clamp(0, rows.shape[0] - 1), rows)
        return torch.where((ids >= first).unsqueeze(-1), spare, regular)

    body = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "forward": forward}
    embedding.__class__ = type(cls.__name__, (cls,), body)
    setattr(embedding, _FIRST, first)
    setattr(embedding, _ATTRIBUTE, torch.zeros(count, embedding.embedding_dim, device="cpu"))
    settings.declare(encoder, INPUT, _ATTRIBUTE, [embedding])


def read(file: Path) -> dict[str, torch.Tensor]:
    """The vectors in a textual inversion's file by their keys there.

    Raises:
        LatentcError: it cannot be read, is a pickle, or holds what is not finite.
        UsageError: there is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise UsageError(*no_file("--embedding", file))
    require_safetensors(file)
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise LatentcError(
            f"{file} is not a sound safetensors file: {error}.", "Download it again."
        ) from error
    for key, tensor in tensors.items():
        if tensor.dim() not in (1, 2) or not tensor.numel() or not bool(tensor.isfinite().all()):
            raise LatentcError(
                f"--embedding: {file} is no textual inversion: '{key}' is no vectors of numbers."
            )
    if not tensors:
        raise LatentcError(f"--embedding: {file} is no textual inversion: it holds nothing.")
    return dict(tensors)


def token_of(keys: Collection[str], file: Path) -> str:
    """The token that a file names by its one key, or else by its own name."""
    names = [key for key in keys if key not in _UNNAMED]
    return names[0] if len(keys) == 1 and names else file.stem


def vector_names(token: str, count: int) -> list[str]:
    """The token's vectors as diffusers names them."""
    return [token, *(f"{token}_{number}" for number in range(1, count))]


def load(pipe: Any, tensors: Mapping[str, torch.Tensor], token: str, source: str) -> None:
    """Teaches each text encoder of a pipeline whose vectors are as wide as some of `tensors` the token.

    Args:
        source: the file, for errors.

    Raises:
        UsageError: no text encoder was compiled for tokens, none is of that width, the token exists, or there is no
            room left. Nothing has changed then.
    """
    lessons: list[Lesson] = []
    widths: dict[str, int] = {}
    for name, tokenizer, embedding in _encoders(pipe):
        widths[name] = embedding.embedding_dim
        for tensor in tensors.values():
            if tensor.shape[-1] == embedding.embedding_dim:
                lessons.append(Lesson(tokenizer, embedding, token, tensor.reshape(-1, tensor.shape[-1])))
                break
    if not widths:
        raise UsageError("the artifact was not compiled to learn tokens.", HINT)
    if not lessons:
        width = next(iter(tensors.values())).shape[-1]
        encoder_widths = ", ".join(f"{width} ({name})" for name, width in widths.items())
        raise UsageError(
            f"{source} is of width {width}; the text encoders are of {encoder_widths}.",
            "It is of another model.",
        )
    _teach(lessons)


def load_as_diffusers(
    pipe: Any,
    pretrained_model_name_or_path: Any,
    token: Any = None,
    tokenizer: Any = None,
    text_encoder: Any = None,
    **options: Any,
) -> None:
    """diffusers' `load_textual_inversion`, for a compiled text encoder: what it takes, from safetensors alone."""
    from diffusers.loaders.textual_inversion import load_textual_inversion_state_dicts

    tokenizer = tokenizer or getattr(pipe, "tokenizer", None)
    encoder = text_encoder or getattr(pipe, "text_encoder", None)
    embedding = None if encoder is None else _embedding(encoder)
    if embedding is None:
        raise UsageError(
            f"{type(pipe).__name__} is compiled, and its text encoder does not follow load_textual_inversion(): it was "
            "not compiled to learn tokens.",
            HINT,
        )
    places = pretrained_model_name_or_path
    places = places if isinstance(places, list) else [places]
    tokens = token if isinstance(token, list) else [token] * len(places)
    try:
        states = load_textual_inversion_state_dicts(places, **{"use_safetensors": True, **options})
        if len(tokens) > 1 and len(states) == 1 and hasattr(states[0], "dim"):
            states = list(states[0])
        names, vectors = type(pipe)._retrieve_tokens_and_embeddings(tokens, states, tokenizer)
    except (ValueError, OSError) as error:
        raise UsageError(f"load_textual_inversion(): {one_line(error, 600)}") from error
    for name, tensor in zip(names, vectors, strict=True):
        if tensor.shape[-1] != embedding.embedding_dim:
            raise UsageError(
                f"the vectors of '{name}' are of width {tensor.shape[-1]}; the text encoder is of "
                f"{embedding.embedding_dim}.",
                "They are of another model.",
            )
    _teach(
        [
            Lesson(tokenizer, embedding, name, tensor.reshape(-1, tensor.shape[-1]))
            for name, tensor in zip(names, vectors, strict=True)
        ]
    )


def _encoders(pipe: Any) -> Iterator[tuple[str, Any, Any]]:
    """The text encoders that were compiled for tokens: name, tokenizer, embedding."""
    components = getattr(pipe, "components", {})
    for name, tokenizer in pairs(components):
        embedding = _embedding(components[name])
        if embedding is not None and components[tokenizer] is not None:
            yield name, components[tokenizer], embedding


def _embedding(encoder: Any) -> Any:
    paths = settings.of(encoder).get(INPUT, ())
    return encoder.get_submodule(paths[0].rpartition(".")[0]) if paths else None


@dataclass(frozen=True)
class Lesson:
    """A token that a text encoder learns.

    Attributes:
        vectors: float32 [vectors, width of the embedding].
    """

    tokenizer: Any
    embedding: Any
    token: str
    vectors: torch.Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """What the tokenizer calls each vector."""
        return tuple(vector_names(self.token, len(self.vectors)))


def _teach(lessons: Sequence[Lesson]) -> None:
    """Gives all of them, or none.

    Raises:
        UsageError: a token exists, or there is no room left.
    """
    learned: dict[int, list[str]] = {}
    for lesson in lessons:
        before = learned.setdefault(id(lesson.tokenizer), [])
        _check(lesson, before)
        before += lesson.names
    for lesson in lessons:
        lesson.tokenizer.add_tokens(list(lesson.names))
        first = getattr(lesson.embedding, _FIRST)
        rows = getattr(lesson.embedding, _ATTRIBUTE).clone()
        for name, vector in zip(lesson.names, lesson.vectors, strict=True):
            rows[lesson.tokenizer.convert_tokens_to_ids(name) - first] = vector.float()
        setattr(lesson.embedding, _ATTRIBUTE, rows)


def _check(lesson: Lesson, before: Sequence[str]) -> None:
    """
    Args:
        before: what the same tokenizer learns before it.
    """
    vocabulary = lesson.tokenizer.get_vocab()
    for name in lesson.names:
        if name in vocabulary or name in before:
            raise UsageError(
                f"the token '{name}' exists already.", "Give it another name: --embedding FILE:TOKEN"
            )
    room = len(getattr(lesson.embedding, _ATTRIBUTE))
    taken = len(lesson.tokenizer) - getattr(lesson.embedding, _FIRST) + len(before)
    if taken + len(lesson.names) > room:
        raise UsageError(
            f"'{lesson.token}' has {len(lesson.names)} vectors; the artifact was compiled to learn {room}, and {taken} "
            "are taken.",
            f"Compile it for more: --spare-tokens {taken + len(lesson.names)}",
        )
