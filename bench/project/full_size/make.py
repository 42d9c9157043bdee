"""`python -m bench.project.full_size.make NAME OUT`: a model folder of a published size.

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
from bench.project.full_size.published import PUBLISHED, Architecture, Part
from bench.project.full_size.random_weights import DTYPES, write

WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""How each library calls its weight files."""


def make(
    architecture: Architecture,
    out: Path,
    dtype: str = "fp16",
    sparse: bool = False,
    only: frozenset[str] = frozenset(),
    blocks: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the folder `out`, which must not exist.

    Args:
        dtype: of the weights: "fp16" or "fp32".
        sparse: leave the weights a hole in the file (zeros, no disk used where the file system can).
        only: names of the parts whose weight files to write; empty for all. Configs are always written.
        blocks: of `random_weights.BLOCK` numbers that each tensor has at most, the rest being such a hole; None for
            all.
        tell: called with one line for each part.

    Raises:
        LatentcError: `out` exists, or `only` names no part.
    """
    names = {part.name for part in architecture.parts}
    if unknown := sorted(only - names):
        raise LatentcError(f"there is no part {', '.join(unknown)} (there are: {', '.join(sorted(names))}).")
    if out.exists():
        raise LatentcError(f"{out} exists already.", "Remove it, or name another folder.")
    for seed, part in enumerate(architecture.parts):
        shapes = _config_and_shapes(part, out / part.name)
        if not only or part.name in only:
            stem = WEIGHTS[part.library]
            nbytes = write(out / part.name, stem, shapes, dtype, seed, sparse, blocks)
            tell(f"{part.name}: {part.class_name}, {nbytes / 1e9:.2f} GB")
    _the_rest(architecture, out)


def make_configs(architecture: Architecture, out: Path) -> None:
    """Write the folder `out`, which must not exist, without any weight: what graphs are exported from.

    No module is built: a config.json holds what the architecture says, and loaders fill in their defaults.
    """
    import importlib

    for part in architecture.parts:
        folder = out / part.name
        folder.mkdir(parents=True)
        config: dict[str, Any] = {"_class_name": part.class_name, **part.config}
        if part.library == "transformers":
            cls = getattr(importlib.import_module(part.library), part.class_name)
            config = {
                "architectures": [part.class_name],
                "model_type": cls.config_class.model_type,
                **part.config,
            }
        _write_json(folder / "config.json", config)
    _the_rest(architecture, out)


def _the_rest(architecture: Architecture, out: Path) -> None:
    """Tokenizers, the scheduler, and last the index: a folder without it is no model."""
    import diffusers

    index: dict[str, Any] = {
        "_class_name": architecture.pipeline,
        "_diffusers_version": diffusers.__version__,
        **architecture.index,
    }
    index.update({part.name: [part.library, part.class_name] for part in architecture.parts})
    for name, kind in architecture.tokenizers.items():
        TOKENIZERS[kind](out / name)
        index[name] = ["transformers", kind]
    kind, config = architecture.scheduler
    getattr(diffusers, kind).from_config(dict(config)).save_config(out / "scheduler")
    index["scheduler"] = ["diffusers", kind]
    _write_json(out / "model_index.json", index)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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


def _gemma_tokenizer(folder: Path) -> None:
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{code:02X}>" for code in range(256))]
    GemmaTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=8192
    ).save_pretrained(folder)


# Qwen's chat: each message between its marks.
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _qwen_tokenizer(folder: Path) -> None:
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        model_max_length=131072,
        chat_template=_CHAT,
    ).save_pretrained(folder)


def _clip_images(folder: Path) -> None:
    from transformers import CLIPImageProcessorPil

    CLIPImageProcessorPil().save_pretrained(folder)


TOKENIZERS: Mapping[str, Callable[[Path], None]] = {
    "CLIPImageProcessor": _clip_images,
    "CLIPTokenizer": _clip_tokenizer,
    "GemmaTokenizer": _gemma_tokenizer,
    "Qwen2Tokenizer": _qwen_tokenizer,
    "T5TokenizerFast": _t5_tokenizer,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.project.full_size.make", description=__doc__)
    parser.add_argument("architecture", choices=sorted(PUBLISHED))
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
            PUBLISHED[args.architecture],
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
