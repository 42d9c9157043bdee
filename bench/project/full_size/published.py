"""Every architecture whose published configs are written down here: what `bench.project.full_size.make` builds."""

from __future__ import annotations

from collections.abc import Mapping

from bench.project.full_size.architectures import ARCHITECTURES
from bench.project.full_size.parts import Architecture
from bench.project.full_size.staged import STAGED
from bench.project.full_size.transformers import TRANSFORMERS
from bench.project.full_size.unets import UNETS

PUBLISHED: Mapping[str, Architecture] = {**ARCHITECTURES, **UNETS, **TRANSFORMERS, **STAGED}
