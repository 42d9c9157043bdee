"""What the files of this target hold."""

from __future__ import annotations

from targets.file_format import onnx

FORMAT = onnx("MatMulBnb4", "MultiHeadAttention")
