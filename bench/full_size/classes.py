"""Imports the classes of all published models. Processes that are forked from one that has it need not do it again."""

from __future__ import annotations

import importlib

from bench.full_size.published import PUBLISHED

for _one in PUBLISHED.values():
    getattr(importlib.import_module("diffusers"), _one.pipeline)
    for _part in _one.parts:
        getattr(importlib.import_module(_part.library), _part.class_name, None)
