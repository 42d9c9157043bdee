"""What the page's fields say, and how a picture's own text fills them in again."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from artifacts import strict_json
from latentc.pictures import JSON_KEY
from runtimes.batches import MAX_SEED


@dataclass(frozen=True)
class Settings:
    """The fields of the page that a picture carries; None where the field is left empty."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    strength: float | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Settings:
        """Those of a picture; what is of another kind than the field is left out.

        Args:
            parameters: as `runtimes.result.Result` has them, or whatever a file said.
        """
        values: dict[str, Any] = {
            name: parameters[name]
            for name in ("prompt", "negative_prompt", "scheduler")
            if isinstance(parameters.get(name), str)
        }
        for name, most in (("seed", MAX_SEED), ("width", 10**6), ("height", 10**6), ("steps", 10**6)):
            value = parameters.get(name)
            if type(value) is int and 0 <= value <= most:
                values[name] = value
        for name in ("guidance", "strength"):
            value = parameters.get(name)
            if isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value):
                values[name] = float(value)
        return cls(**values)

    @classmethod
    def read(cls, data: bytes) -> Settings | None:
        """Those that a PNG file carries; None where it carries none, or is no PNG."""
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                    text = image.info.get(JSON_KEY)
            parameters = None if text is None else strict_json.loads(str(text).encode("utf-8"), "The text")
        # Damaged files fail in whatever way the decoder's code does.
        except Exception:
            return None
        return cls.of(parameters) if isinstance(parameters, dict) else None
