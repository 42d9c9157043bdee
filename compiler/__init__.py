"""A model folder becomes a target-neutral ONNX graph whose weights stay on disk until they are streamed out."""
