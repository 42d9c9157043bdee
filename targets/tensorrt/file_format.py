"""What the ONNX file beside an engine holds; the engine itself is code, which nobody looks into."""

from __future__ import annotations

from targets.file_format import onnx

FORMAT = onnx()
