"""The unit of a stored log-mel, for each front end."""

import math
from dataclasses import dataclass

import numpy as np

# librosa's lower bound of the power, hence of the decibels: digital silence is -100 dB. The reference power is 1.
MIN_POWER = 1e-10


@dataclass(frozen=True)
class Levels:
    """In the unit of a front end: the value of digital silence, of one decibel, the usual mean and deviation."""

    silence: float
    decibel: float
    mean: float
    deviation: float


LEVELS = {
    # Mean and deviation: round numbers between those measured on the demo and on recorded speech.
    "librosa": Levels(silence=10 * math.log10(MIN_POWER), decibel=1.0, mean=-40.0, deviation=20.0),
    # Natural logarithm of the energy, from float32's epsilon up. Mean and deviation are AudioSet's, as published with
    # the Audio Spectrogram Transformer (arXiv 2104.01778).
    "kaldi": Levels(
        silence=math.log(np.finfo(np.float32).eps), decibel=math.log(10) / 10, mean=-4.2677393, deviation=4.5689974
    ),
}
