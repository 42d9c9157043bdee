"""Editing ONNX graphs: what the compiler and the targets share to find, change, check and write them."""
