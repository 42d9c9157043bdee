"""Graph passes: one file each, `onnx_ir` models in and out. `compiler.passes.pass_table` has the one list."""
