"""Measuring artifacts: latency, memory and quality; the report; the reference model."""
