"""A captured method becomes an ONNX graph whose weights stay on disk."""
