"""The memory that batches lie in, and copying them to a device."""

import math
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

    Touching a fresh page costs about as much as decoding into it. A piece of memory has a power of two of bytes, so
    that it serves tensors of many sizes: log-mels have as many lengths as clips. Its pages that no tensor reaches are
    never touched. PyTorch itself keeps pinned memory, and waits for unfinished copies to the GPU before it reuses it.
    """

    def __init__(self, pinned: bool = False) -> None:
        self._pinned = pinned
        self._free: dict[int, list[NDArray[np.uint8]]] = {}  # by the logarithm of the size

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
        """An uninitialised tensor."""
        if self._pinned:
            return torch.from_numpy(np.empty(0, dtype)).new_empty(shape, pin_memory=True)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        exponent = max(size - 1, 0).bit_length()
        free = self._free.setdefault(exponent, [])
        try:
            piece = free.pop()
        except IndexError:
            piece = np.empty(1 << exponent, np.uint8)
        # Only the tensor's storage holds this view, so the view is collected with the last tensor over the storage.
        lent = piece[:size].view(dtype).reshape(shape)
        weakref.finalize(lent, free.append, piece).atexit = False
        return torch.from_numpy(lent)
