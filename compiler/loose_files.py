"""The files of an artifact that no graph holds: the index, schedulers, tokenizers, processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from artifacts import strict_json
from compiler.capture.capture import Capture
from compiler.lowering.graph_job import write_residual
from compiler.model_source import ModelSource
from runtimes.assemble import INDEX
from runtimes.pipeline_parts import make_part, part_files


def write_loose_files(source: ModelSource, captured: Capture, folder: Path) -> None:
    """Writes what diffusers loads beside the modules: the index, schedulers, tokenizers, processors."""
    compiled = {method.component for method in captured.methods}
    index = strict_json.loads(source.files.read(INDEX), source.files.shown(INDEX))
    for component in source.components:
        if component.is_module:
            if component.name in captured.uncalled:
                copy = folder / component.name
                copy.mkdir(parents=True, exist_ok=True)
                (copy / "config.json").write_bytes(component.config)
                write_residual(component, captured, copy)
            elif component.name not in compiled:
                index[component.name] = [None, None]
            continue
        for path, data in part_files(source.files, component.name):
            copy = folder / component.name / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def tokenizers(source: ModelSource) -> dict[str, Any]:
    """The model's tokenizers by their folders."""
    from transformers import PreTrainedTokenizerBase

    return {
        component.name: make_part(source.files, component.name, component.cls)
        for component in source.components
        if not component.is_module and issubclass(component.cls, PreTrainedTokenizerBase)
    }
