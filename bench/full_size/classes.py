"""Imports what exports of the published models import, and reads the translations of torch's exporter.

Processes that are forked from one that has it need not do it again.
"""

from __future__ import annotations

import importlib

from torch.onnx._internal.exporter._registration import ONNXRegistry

from bench.full_size.published import PUBLISHED
from compiler.export.quick import quick
from compiler.export.translate import OPSET

for _one in PUBLISHED.values():
    getattr(importlib.import_module("diffusers"), _one.pipeline)
    for _part in _one.parts:
        getattr(importlib.import_module(_part.library), _part.class_name, None)
importlib.import_module("diffusers.pipelines.auto_pipeline")
with quick():
    ONNXRegistry.from_torchlib(opset_version=OPSET)
