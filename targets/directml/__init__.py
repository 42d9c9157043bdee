"""DirectML: ONNX Runtime on Windows, with its kernels as data."""
