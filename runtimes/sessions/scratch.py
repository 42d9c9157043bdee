"""Memory of a device that engines compute in, one block for all of them."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakValueDictionary


class Scratch:
    """A block as large as the largest engine has needed up to now. Engines use it one at a time, holding `lock`.

    A pipeline's components run one after the other, so that their activations need not be there together.
    """

    def __init__(self, device: Any) -> None:
        """
        Args:
            device: PyTorch's.
        """
        self.lock = threading.Lock()
        self._device = device
        self._block: Any = None

    def at_least(self, size: int) -> tuple[int, int]:
        """Address and bytes of the block, which holds `size` bytes; PyTorch aligns it to 512."""
        import torch

        if self._block is None or self._block.numel() < size:
            self._block = None  # freed first: the two need not fit together
            self._block = torch.empty(size, dtype=torch.uint8, device=self._device)
        return self._block.data_ptr(), self._block.numel()


_shared: WeakValueDictionary[str, Scratch] = WeakValueDictionary()
_guard = threading.Lock()


def scratch(device: Any) -> Scratch:
    """The one block of a device; it is freed with the last engine that keeps it."""
    with _guard:
        block = _shared.get(str(device))
        if block is None:
            block = _shared[str(device)] = Scratch(device)
        return block
