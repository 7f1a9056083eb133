"""Random changes to a training batch, on its device. Each is drawn per clip and is the same for all its frames.

The oldest settings draw one after another from the step's generator, whether they are on or off. Each later one draws
apart (`Draws.apart`), so it does not change the numbers of any other.
"""

from dataclasses import replace

from torch import Tensor

from pipeline.common.augmentation_settings import AugmentationSettings
from pipeline.common.features import Features
from pipeline.loading.batch import Batch
from pipeline.loading.draws import Draws
from pipeline.loading.mixup import mix_pairs
from pipeline.loading.people import People
from pipeline.loading.picture_augmentation import PictureChanges, change_boxes, change_pictures, draw_changes
from pipeline.loading.sound_augmentation import change_sound, change_tempo


def augment(batch: Batch, settings: AugmentationSettings, features: Features, classes: int, draws: Draws) -> Batch:
    """A changed copy of the batch, with frames and log-mels in float32. All randomness comes from `draws`.

    With mixup, the labels are probabilities of the `classes` classes. The rows of the batch must then be whole pairs
    of the step (`plan.split_step`).
    """
    chosen = draws.uniform()
    batch = replace(batch, frames=batch.frames.float(), log_mel=batch.log_mel.float())
    batch = change_tempo(batch, settings, features, draws)
    changes = draw_changes(settings, draws)
    log_mel = change_sound(batch.log_mel, batch.mel_frames, settings, features, draws)
    batch = replace(
        batch,
        frames=change_pictures(batch.frames, changes),
        people=batch.people and change_people(batch.people, changes),
        log_mel=log_mel,
        hidden=_dropped_streams(settings, chosen),
    )
    return mix_pairs(batch, settings, classes, draws)


def change_people(people: People, changes: PictureChanges) -> People:
    """Change the crops of the faces as the frames are changed, and move their boxes with them."""
    crops = change_pictures(people.crops.flatten(1, 2).float(), changes).view(people.crops.shape)
    return People(crops, change_boxes(people.boxes, changes), people.present)


def _dropped_streams(settings: AugmentationSettings, chosen: Tensor) -> dict[str, Tensor]:
    """For each stream, which clips are trained on without it (B,), by the numbers `chosen` (B,) in 0..1.

    The dict is empty if nothing is dropped. No clip loses two streams. Frames and log-mels stay as they are, because
    BatchNorm's statistics are over all clips of a group, and in evaluation no stream is hidden: clips of silence would
    give the training other statistics.
    """
    hidden, end = {}, 0.0
    for name, share in settings.drop.items():
        start, end = end, end + share
        hidden[name] = (chosen >= start) & (chosen < end)
    return hidden if end else {}
