"""The built-in reference model `shapes`: what it is trained on, how, and how it is judged.

`SHAPES_DIR` is the diffusers folder of the trained pipeline. Importing this package imports neither
torch nor diffusers.
"""

from __future__ import annotations

from pathlib import Path

SHAPES_DIR = Path(__file__).resolve().parent / "shapes"
"""The trained pipeline as diffusers writes it (model_index.json, unet/, vae/, ...)."""

__all__ = ["SHAPES_DIR"]
