"""Imports what exports of the published models import, and reads the translations of torch's exporter.

Processes that are forked from one that has it need not do it again.
"""

from __future__ import annotations

import gc
import importlib
import logging
from contextlib import suppress

from torch.onnx._internal.exporter._registration import ONNXRegistry

from bench.project.full_size.published import PUBLISHED
from compiler.export.quick import quick
from compiler.export.translate import OPSET

for _model in PUBLISHED.values():
    # What a version of diffusers lacks, or cannot import, is said by the process that wants it.
    for _library, _class in (
        ("diffusers", _model.pipeline),
        *((p.library, p.class_name) for p in _model.parts),
    ):
        with suppress(ImportError, AttributeError, RuntimeError):
            getattr(importlib.import_module(_library), _class)
importlib.import_module("diffusers.pipelines.auto_pipeline")
logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # It warns of torchvision's operators.
with quick():
    ONNXRegistry.from_torchlib(opset_version=OPSET)

# Forks of this process look for cycles among their own objects alone.
gc.collect()
gc.freeze()
