"""Rewrites of exported programs that give every operator an ONNX form; each looks at the graph alone."""
