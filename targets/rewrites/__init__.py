"""Exact rewrites of standard operators that any runtime can run: one file each; a target names those that it uses.

Pictures differ by rounding only. `python -m bench.project.rewrites` measures them again; docs/speed.md has what it
printed, and what was tried and did not pay.
"""

from __future__ import annotations

from targets.target_contract import Rewrite

SPLIT_LINEAR = Rewrite(
    "split-linear",
    "targets.rewrites.split_linear:SplitLinearPass",
    "a linear layer whose result is only cut into parts (GEGLU) becomes one for each part",
    why="no copy of the activations, which OpenVINO makes with a reference kernel",
)

SUB_PIXEL_CONV = Rewrite(
    "sub-pixel-conv",
    "targets.rewrites.sub_pixel_conv:SubPixelConvPass",
    "a convolution of a picture enlarged by repeating pixels becomes smaller ones of the picture itself",
    why="4/9 of the multiplications, for twice the size and 3x3 taps; their weights become 16/9, and sums of taps "
    "lose more in few bits than the taps: a pattern that the eye sees",
    compressed=False,
)

INSTANCE_NORM = Rewrite(
    "instance-norm",
    "targets.rewrites.instance_norm:InstanceNormPass",
    "group norms become instance norms of whole groups, then a product and a sum",
    why="its CPU has no kernel for group norms and takes them apart; OpenVINO has one",
)

PAD_HEADS = Rewrite(
    "pad-heads",
    "targets.rewrites.pad_heads:PadHeadsPass",
    "attention heads of 33 to 63 are padded with zeros to 64, in the weights",
    why="pays in bf16 on processors with AMX, whose tiles are 32 deep; others only multiply the zeros",
)
