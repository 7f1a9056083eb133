"""Why a clip should not be trusted: its sound is silence, or its picture is black or never changes.

Such a clip is extracted all the same, and marked: it may be a broken export, a muted track or a slide with a voice.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.extraction.decoder_output import Decoded

MUTED, BLACK, STILL = KINDS = ("muted", "black", "still")
# -80 dBFS, about three steps of 16-bit sound.
SILENT_PEAK = 1e-4
# Black decodes to 0, with grain to less than 1, and to 16 if its limited range is taken for full range.
BLACK_LEVEL = 16
# Frames are compared in 16 x 16 cells. The largest range of a cell's mean was, of 255, at most 3.4 in single pictures
# that were encoded as clips (x264 and MPEG-4, once and twice, with grain; 6.6 in x264's first frames at 60 kbit/s), and
# at least 9.4 in 220 recordings of a calm speaker with 8 frames or 16, 6.0 with 4.
CELLS, STILL_RANGE = 16, 5.0


def suspicions(decoded: Decoded) -> list[str]:
    """Which of `KINDS` a clip is. A black clip is not called still too."""
    kinds = []
    if decoded.waveform is not None and np.abs(decoded.waveform).max() < SILENT_PEAK:
        kinds.append(MUTED)
    if len(decoded.frames) and decoded.frames.mean(axis=(1, 2, 3)).max() <= BLACK_LEVEL:
        kinds.append(BLACK)
    elif len(decoded.frames) > 1 and _largest_range(decoded.frames) < STILL_RANGE:
        kinds.append(STILL)
    return kinds


def _largest_range(frames: NDArray[np.uint8]) -> float:
    """How much the brightness of a cell of the picture changes between the frames, in the cell where it is most."""
    gray = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).astype(np.float32) for frame in frames]
    cells = np.stack([cv2.resize(picture, (CELLS, CELLS), interpolation=cv2.INTER_AREA) for picture in gray])
    return float(np.ptp(cells, axis=0).max())
