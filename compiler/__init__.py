"""A model folder becomes a target-neutral ONNX graph whose weights stay on disk until they are streamed out."""

from artifacts import telemetry

telemetry.off()  # before any module of this package imports a vendor's
