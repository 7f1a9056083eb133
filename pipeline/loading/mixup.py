"""Mixup (arXiv 1710.09412): neighbouring clips of a step are mixed, and so are their labels."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.common.augmentation_settings import AugmentationSettings
from pipeline.loading.batch import Batch
from pipeline.loading.draws import Draws
from pipeline.loading.people import People


def mix_pairs(batch: Batch, settings: AugmentationSettings, classes: int, draws: Draws) -> Batch:
    """Mix clips 2k and 2k + 1 of the batch; labels become probabilities. With `mixup_alpha` 0, nothing changes.

    Both clips of a pair keep the same share of themselves, at least a half, and their own frame times.
    """
    if not settings.mixup_alpha:
        return batch
    partner = torch.arange(len(batch.clip_ids), device=draws.device) ^ 1
    # A clip without sound has nothing to mix with another's sound. So a pair stays unmixed if only one of its clips has
    # an input, or has a stream hidden.
    is_mixed = torch.ones_like(batch.has_video)
    for has_it in (*batch.available.values(), *batch.hidden.values()):
        is_mixed &= has_it == has_it[partner]
    drawn = draws.apart("mixup").beta(settings.mixup_alpha)[::2].repeat_interleave(2)
    share = torch.where(is_mixed, torch.maximum(drawn, 1 - drawn), 1.0)

    def mixed(values: Tensor) -> Tensor:
        return values[partner].lerp_(values, share.view(-1, *[1] * (values.dim() - 1)))

    def mixed_people(people: People) -> People:
        """Mix each face with the partner's face in the same place, if there is one. Boxes stay as they are."""
        both = (people.present & people.present[partner])[..., None, None, None]
        return People(torch.where(both, mixed(people.crops), people.crops), people.boxes, people.present)

    longer = torch.maximum(batch.mel_frames, batch.mel_frames[partner])
    return replace(
        batch,
        frames=mixed(batch.frames),
        people=batch.people and mixed_people(batch.people),
        log_mel=mixed(batch.log_mel),
        mel_frames=torch.where(is_mixed, longer, batch.mel_frames),
        labels=mixed(F.one_hot(batch.labels, classes).float()),
    )
