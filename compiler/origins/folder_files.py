"""Which files of a component's folder are its weights."""

from __future__ import annotations

import os
from pathlib import Path

from artifacts import artifact_paths, strict_json
from artifacts.contents import Folder
from artifacts.errors import LatentcError

_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

# Ends of the names of files that hold a graph with its weights, and whose they are.
_COMPILED = {
    ".xml": "OpenVINO",
    ".onnx": "ONNX",
    ".engine": "TensorRT",
    ".plan": "TensorRT",
    ".mlpackage": "Core ML",
    ".mlmodelc": "Core ML",
    ".gguf": "GGUF",
}

# Ends of the names of files that a browser, the hub's client or another program has not finished.
_UNFINISHED = (".incomplete", ".part", ".crdownload", ".aria2", ".download", ".tmp")

# What diffusers and transformers call a component's weights, most exact first. A variant's name stands before
# the suffix ("model.fp16.safetensors").
_STEMS = ("diffusion_pytorch_model", "model")


def weight_files(folder: Path, name: str) -> tuple[Path, ...]:
    """The safetensors files of a component's folder that diffusers or transformers would read, shards in order.

    Args:
        name: the component's, for errors.

    Raises:
        LatentcError: there are none: pickles, an exported model, or nothing.
    """
    for stem in _STEMS:
        for index in sorted(
            folder.glob(f"{stem}*.safetensors.index*.json"), key=lambda p: (len(p.name), p.name)
        ):
            return _shards(index)
        plain = sorted(
            (p for p in folder.glob(f"{stem}*.safetensors") if "-of-" not in p.name),
            key=lambda p: (len(p.name), p.name),
        )
        if plain:
            if not plain[0].exists():
                raise LatentcError(f"{plain[0]} is a link to a file that is not there.", _again(folder))
            return (plain[0],)
    names = sorted(p.name for p in folder.glob("*"))
    compiled = [(n, kind) for n in names for suffix, kind in _COMPILED.items() if n.endswith(suffix)]
    if compiled:
        raise LatentcError(
            f"the weights of '{name}' are in a model that was exported already ({compiled[0][0]}: {compiled[0][1]}); "
            "latentc compiles models of PyTorch.",
            "Give the model that it was exported from: a diffusers folder or hub id with safetensors.",
        )
    pickles = [n for n in names if n.endswith(_PICKLES)]
    if pickles:
        raise LatentcError(
            f"the weights of '{name}' are a pickle ({pickles[0]}), which can run any code when it is read; "
            "latentc reads safetensors only.",
            "Convert once, where you trust the file: from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
        )
    parts = [n for n in names if n.endswith(_UNFINISHED)]
    raise LatentcError(
        f"{folder} holds no weights: expected {_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors"
        f"{f', and there is an unfinished download ({parts[0]})' if parts else ''}.",
        _again(folder),
    )


def _again(folder: Path) -> str:
    """What to do where a part of a model is missing, which is named where its folder is of the hub's cache."""
    for parent in folder.parents:
        repository = parent.parent.parent.name
        if parent.parent.name == "snapshots" and repository.startswith("models--"):
            return f"Its download is not complete: hf download {'/'.join(repository.split('--')[1:])}"
    return "Download the model again: a part of it is missing."


def _shards(index: Path) -> tuple[Path, ...]:
    content = strict_json.loads(Folder(index.parent).read(index.name), str(index))
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not (isinstance(shards, dict) and shards and all(isinstance(name, str) for name in shards.values())):
        raise LatentcError(
            f"{index} is not an index of shards: its 'weight_map' does not name a file for each key."
        )
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name or not os.path.isfile(index.parent / name):
            raise LatentcError(
                f"{index} names the shard {artifact_paths.shown(name)}, which is not in {index.parent}.",
                _again(index.parent),
            )
    return tuple(index.parent / name for name in names)
