"""What this machine's processor has for products of small whole numbers."""

from __future__ import annotations

import platform
from pathlib import Path

_X86 = frozenset({"x86_64", "amd64", "i386", "i686", "x86"})
# As Linux names them.
_SUMS_IN_32_BITS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def multiplies_bytes() -> bool:
    """Whether products of 8-bit numbers are added up in 32 bits: x86 without VNNI or AMX does so in 16, which overflow.

    Where the system does not tell, PyTorch is asked; False where nobody knows.
    """
    if platform.machine().lower() not in _X86:
        return True
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    if flags is not None:
        return bool(_SUMS_IN_32_BITS & set(flags))
    import torch

    asks = (getattr(torch.cpu, name, None) for name in ("_is_vnni_supported", "_is_amx_tile_supported"))
    return any(bool(ask()) for ask in asks if callable(ask))
