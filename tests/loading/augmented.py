"""Settings of the augmentation, one by one and together, and parts of a batch."""

import dataclasses

from torch import Tensor

from pipeline.loading.batch import Batch

OFF = {
    "flip": False,
    "min_crop": 1.0,
    "max_crop": 1.0,
    "translation": 0.0,
    "rotation_deg": 0.0,
    "color_jitter": 0.0,
    "erasing": 0.0,
    "tempo": 0.0,
    "gain_db": 0.0,
    "noise_db": 0.0,
    "pitch_mel_bins": 0.0,
    "roll_s": 0.0,
    "mask_mel_bins": 0,
    "mask_time_s": 0.0,
    "drop": {"scene": 0.0, "sound": 0.0},
    "drop_final": 1.0,
    "mixup_alpha": 0.0,
}
PICTURES = {
    "flip": True,
    "min_crop": 0.8,
    "max_crop": 1.3,
    "translation": 0.2,
    "rotation_deg": 20.0,
    "color_jitter": 0.3,
    "erasing": 0.7,
}
SOUND = {
    "gain_db": 6.0,
    "noise_db": 3.0,
    "pitch_mel_bins": 2.5,
    "roll_s": 1.0,
    "mask_mel_bins": 8,
    "mask_time_s": 0.3,
}
BOTH = {"tempo": 0.2, "drop": {"scene": 0.3, "sound": 0.3}, "mixup_alpha": 0.4}
EVERYTHING = PICTURES | SOUND | BOTH
# Each setting alone, then all of them.
EACH = {**{name: {name: value} for name, value in EVERYTHING.items()}, "everything": EVERYTHING}
ALONE = {
    **{name: EACH[name] for name in EVERYTHING if name != "mixup_alpha"},
    "all": {**EVERYTHING, "mixup_alpha": 0.0},
}


def part(batch: Batch, chosen: list[int]) -> Batch:
    """The chosen rows of a batch."""
    tensors = {name: value[chosen] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    hidden = {name: value[chosen] for name, value in batch.hidden.items()}
    return dataclasses.replace(batch, clip_ids=[batch.clip_ids[i] for i in chosen], **tensors, hidden=hidden)


def tensors_of(batch: Batch) -> dict:
    """The tensors of a batch, by name."""
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return tensors | {f"hidden {name}": value for name, value in batch.hidden.items()}
