"""Decoding stored pictures."""

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.common.errors import UserError


def decode_jpeg(jpeg: bytes | memoryview, clip_id: str, picture: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Decode a frame or a face crop to RGB (H, W, 3), into `picture` if it is given.

    Raises `UserError` for bytes that are not a whole JPEG, or not of the size of `picture`.
    """
    try:
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=picture)
        if picture is not None and decoded.shape != picture.shape:
            raise ValueError(
                f"it has {decoded.shape[1]}x{decoded.shape[0]} pixels, expected {picture.shape[1]}x{picture.shape[0]}"
            )
    except ValueError as error:
        raise UserError(
            f"a picture of clip {clip_id} is not a whole JPEG ({error}): "
            "its shard is damaged; delete it and run the extract stage again"
        ) from None
    return decoded
