"""The most confident mistakes of a model: which clips, and a picture of each."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.loading.batch import collate
from pipeline.loading.loader import read_sample
from pipeline.loading.memory import Memory
from pipeline.loading.selection import ClipRef
from pipeline.models.scoring import ScoredClip, Scorer
from pipeline.results.pictures import draw_clip

SHOWN_MISTAKES = 12


@dataclass(frozen=True)
class Scored:
    """Clips, their class probabilities (clips, classes), and what scored them."""

    clips: Sequence[ClipRef]
    probabilities: NDArray[np.float64]
    scorer: Scorer


def draw_mistakes(parts: Iterable[Scored]) -> dict[str, bytes]:
    """JPEG pictures by clip id, of those of the scored clips that are wrong with the highest confidence.

    The most confident mistake is the first.
    """
    wrong = [
        (clip, row, part.scorer)
        for part in parts
        for clip, row in zip(part.clips, part.probabilities, strict=True)
        if int(row.argmax()) != clip.label
    ]
    worst = sorted(wrong, key=lambda mistake: -mistake[1].max())[:SHOWN_MISTAKES]
    return {clip.clip_id: _draw_mistake(clip, row, scorer) for clip, row, scorer in worst}


def _draw_mistake(clip: ClipRef, probabilities: NDArray[np.float64], scorer: Scorer) -> bytes:
    sample = read_sample(clip)
    model = scorer.model
    batch = collate([sample], [clip.label], model.sampling.evaluated, model.features, Memory())
    labels = model.labels
    name = f"{clip.clip_id}, labelled {labels[clip.label]}"
    figure = draw_clip(ScoredClip(name, sample.duration_s, batch, labels, probabilities), scorer)
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", dpi=70)
    return file.getvalue()
