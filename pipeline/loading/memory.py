"""The memory that batches lie in, and copying them to a device."""

import weakref

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device; to a GPU from pinned memory, so that the copy does not wait for the GPU's earlier work."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Memory:
    """Memory for batches, which is reused as soon as no tensor lies in it any more.

    Touching a fresh page costs about as much as decoding into it. PyTorch itself keeps pinned memory, and waits for
    unfinished copies to the GPU before it reuses it.
    """

    def __init__(self, pinned: bool = False) -> None:
        self._pinned = pinned
        self._free: dict[tuple[tuple[int, ...], str], list[NDArray[np.generic]]] = {}

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
        """An uninitialised tensor."""
        if self._pinned:
            return torch.from_numpy(np.empty(0, dtype)).new_empty(shape, pin_memory=True)
        free = self._free.setdefault((shape, np.dtype(dtype).str), [])
        try:
            array = free.pop()
        except IndexError:
            array = np.empty(shape, dtype)
        # Only the tensor's storage holds this view, so the view is collected with the last tensor over the storage.
        lent = array.view()
        weakref.finalize(lent, free.append, array).atexit = False
        return torch.from_numpy(lent)
