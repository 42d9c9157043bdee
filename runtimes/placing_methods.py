"""diffusers' own methods that place modules, or trade their memory for time, and change no picture.

What is compiled passes over them: sessions have their device and precision already, and a memory plan of their own.
"""

from __future__ import annotations

_OF_BOTH = (
    "set_attention_slice",
    "enable_xformers_memory_efficient_attention",
    "disable_xformers_memory_efficient_attention",
    "set_use_memory_efficient_attention_xformers",
    "enable_group_offload",
)

OF_PIPELINES = (
    *_OF_BOTH,
    "enable_attention_slicing",
    "disable_attention_slicing",
    "enable_model_cpu_offload",
    "enable_sequential_cpu_offload",
    "reset_device_map",
)

OF_MODULES = (
    *_OF_BOTH,
    "enable_gradient_checkpointing",
    "disable_gradient_checkpointing",
    "compile",
    "compile_repeated_blocks",
)
"""Beside `MOVES`, which every module has."""

MOVES = ("to", "cpu", "cuda", "float", "half", "bfloat16", "double")
"""Methods of modules that move or cast them."""
