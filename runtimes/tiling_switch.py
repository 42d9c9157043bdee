"""diffusers' own methods for tiles and slices on a compiled component: `enable_tiling` and its kin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from runtimes.tiles import Tiling

SWITCH = "_latentc_tiling"
"""The attribute of a component under which its `TilingSwitch` is."""


class TilingSwitch:
    """What diffusers' own methods have set for one component: `enable_tiling`, `enable_slicing` and their opposites.

    Attributes:
        tiling: None for what the call of the pipeline asks for.
    """

    def __init__(self) -> None:
        self.tiling: Tiling | None = None

    def set(self, mode: Literal["on", "off"], side: int | None) -> None:
        """Turns tiles on or off; slices stay as they are."""
        slices = self.tiling is not None and self.tiling.slices
        self.tiling = Tiling(mode, side, slices) if slices or mode == "on" else None

    def slice(self, slices: bool) -> None:
        """Turns slices on or off; tiles stay as they are."""
        self.tiling = replace(self.tiling or Tiling(), slices=slices)

    def of(self, requested: Tiling) -> Tiling:
        """What a call is made with, where the pipeline's is `requested`."""
        return requested if self.tiling is None or requested.mode == "on" else self.tiling


def _enable_tiling(self: Any, *args: Any, **kwargs: Any) -> None:
    """diffusers' own, for whatever it takes: the side of a tile is the smallest of the sides that it names."""
    passed = [value for value in (*args, *kwargs.values()) if isinstance(value, int) and value > 1]
    own = [getattr(self, name, None) for name in _TILE_SIDES]
    sides = passed or [side for side in own if isinstance(side, int)]
    getattr(self, SWITCH).set("on", min(sides, default=None))


_TILE_SIDES = ("tile_sample_min_size", "tile_sample_min_height", "tile_sample_min_width")
"""diffusers' names for the sides from which a picture is made in tiles."""

TILING_METHODS: dict[str, Callable[..., None]] = {
    "enable_tiling": _enable_tiling,
    "disable_tiling": lambda self: getattr(self, SWITCH).set("off", None),
    "enable_slicing": lambda self: getattr(self, SWITCH).slice(True),
    "disable_slicing": lambda self: getattr(self, SWITCH).slice(False),
}
