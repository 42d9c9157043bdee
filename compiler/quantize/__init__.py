"""Quantization of weights: streamed, one tensor in memory at a time, as a graph pass that says what it did."""
