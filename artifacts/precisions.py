"""The types of numbers that weights are stored in and graphs are computed in.

It imports nothing: options of commands are made of it, whose help has to answer at once.
"""

PRECISIONS = ("fp32", "fp16", "bf16")
"""By the names that commands, manifests and sessions have for them, in the order in which they are listed."""
