"""`python -m bench.full_size.make sd15|sdxl|flux OUT`: a model folder of a published size.

Modules are built on torch's meta device, so no weight is ever in memory; the numbers go to disk block by
block, random. The tokenizers know single bytes only: such a model draws noise, whatever the prompt.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from artifacts.errors import LatentcError
from bench.full_size.architectures import ARCHITECTURES, Architecture, Part
from bench.full_size.weights import DTYPES, write

WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""How each library calls its weight files."""


def make(
    architecture: Architecture,
    out: Path,
    dtype: str = "fp16",
    sparse: bool = False,
    only: frozenset[str] = frozenset(),
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the folder `out`, which must not exist.

    Args:
        dtype: of the weights: "fp16" or "fp32".
        sparse: leave the weights a hole in the file (zeros, no disk used where the file system can).
        only: names of the parts whose weight files to write; empty for all. Configs are always written.
        tell: called with one line for each part.

    Raises:
        LatentcError: `out` exists, or `only` names no part.
    """
    import diffusers

    names = {part.name for part in architecture.parts}
    if unknown := sorted(only - names):
        raise LatentcError(f"there is no part {', '.join(unknown)} (there are: {', '.join(sorted(names))}).")
    if out.exists():
        raise LatentcError(f"{out} exists already.", "Remove it, or name another folder.")
    index: dict[str, Any] = {
        "_class_name": architecture.pipeline,
        "_diffusers_version": diffusers.__version__,
        **architecture.index,
    }
    for seed, part in enumerate(architecture.parts):
        shapes = _config_and_shapes(part, out / part.name)
        if not only or part.name in only:
            stem = WEIGHTS[part.library]
            nbytes = write(out / part.name, stem, shapes, dtype, seed, sparse)
            tell(f"{part.name}: {part.class_name}, {nbytes / 1e9:.2f} GB")
        index[part.name] = [part.library, part.class_name]
    for name, kind in architecture.tokenizers.items():
        TOKENIZERS[kind](out / name)
        index[name] = ["transformers", kind]
    kind, config = architecture.scheduler
    getattr(diffusers, kind).from_config(dict(config)).save_config(out / "scheduler")
    index["scheduler"] = ["diffusers", kind]
    # Last: a folder without it is no model.
    (out / "model_index.json").write_text(
        json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def _config_and_shapes(part: Part, folder: Path) -> dict[str, tuple[int, ...]]:
    """Writes config.json; returns the shape of every tensor that a checkpoint stores, tied ones once."""
    import importlib

    import torch

    cls = getattr(importlib.import_module(part.library), part.class_name)
    with torch.device("meta"):
        if part.library == "diffusers":
            module = cls.from_config(dict(part.config))
        else:
            module = cls(cls.config_class(**part.config))
    folder.mkdir(parents=True)
    if part.library == "diffusers":
        module.save_config(folder)
    else:
        module.config.architectures = [part.class_name]
        module.config.save_pretrained(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    seen = set()
    for key, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            shapes[key if key.startswith(part.key_prefix) else part.key_prefix + key] = tuple(tensor.shape)
    return shapes


def _clip_tokenizer(folder: Path) -> None:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # CLIP finds the end of a prompt as its highest token: the end token comes last.
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)
    tokenizer.save_pretrained(folder)


def _t5_tokenizer(folder: Path) -> None:
    from transformers import T5TokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((letter, -2.0) for letter in ["▁", *letters]),
    ]
    T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512).save_pretrained(folder)


TOKENIZERS: Mapping[str, Callable[[Path], None]] = {
    "CLIPTokenizer": _clip_tokenizer,
    "T5TokenizerFast": _t5_tokenizer,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.full_size.make", description=__doc__)
    parser.add_argument("architecture", choices=sorted(ARCHITECTURES))
    parser.add_argument("out", type=Path, help="the folder to write; must not exist")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="fp16", help="of the weights (default: fp16)"
    )
    parser.add_argument(
        "--sparse", action="store_true", help="weights are holes in the files: all zero, no disk used"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="PART", help="write this part's weights"
    )
    args = parser.parse_args()
    try:
        make(
            ARCHITECTURES[args.architecture],
            args.out,
            args.dtype,
            args.sparse,
            frozenset(args.only),
            tell=lambda line: print(line, flush=True),
        )
    except LatentcError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
