"""Measuring artifacts: latency, memory and quality; the report; the reference model."""

from artifacts import telemetry

telemetry.off()  # before any module of this package imports a vendor's
