"""Tokenizers as OpenVINO graphs, which OpenVINO GenAI reads beside the models: it has no Python to tokenize with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from targets.openvino.names import number_unnamed

PACKAGE = "openvino-tokenizers"

FILES = ("openvino_tokenizer", "openvino_detokenizer")


def can_convert() -> bool:
    """Whether the package openvino-tokenizers is installed."""
    return find_spec("openvino_tokenizers") is not None


def write_tokenizers(tokenizers: Mapping[str, Any], folder: Path) -> None:
    """Writes ``openvino_tokenizer`` and ``openvino_detokenizer`` (``.xml`` and ``.bin``) beside each tokenizer's files.

    What it cannot convert it passes over, and everything where the package does not fit the OpenVINO that is installed:
    an artifact is whole without them.

    Args:
        tokenizers: by their folders in `folder`, tokenizers of transformers.
    """
    try:
        import openvino as ov
        from openvino_tokenizers import convert_tokenizer
    except (ImportError, RuntimeError):
        return
    for name, tokenizer in sorted(tokenizers.items()):
        try:
            models = convert_tokenizer(tokenizer, with_detokenizer=True)
        except (
            Exception
        ):  # It raises what its rules meet: KeyError, AttributeError, NotImplementedError, OVTypeError.
            continue
        for file, model in zip(FILES, models, strict=True):
            number_unnamed(model)
            ov.save_model(model, folder / name / f"{file}.xml", compress_to_fp16=False)
