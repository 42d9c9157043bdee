"""ONNX Runtime: the target, and the passes that its kernels want."""
