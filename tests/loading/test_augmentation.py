import dataclasses

import numpy as np
import pytest
import torch

from pipeline.common.config import parse_config
from pipeline.common.errors import UserError
from pipeline.loading.augmentation import Draws, augment
from pipeline.shards.log_mel_units import LEVELS

SILENCE = LEVELS["librosa"].silence
OFF = {
    "flip": False,
    "min_crop": 1.0,
    "color_jitter": 0.0,
    "gain_db": 0.0,
    "roll_s": 0.0,
    "mask_mel_bins": 0,
    "mask_time_s": 0.0,
    "drop_video": 0.0,
    "drop_audio": 0.0,
}


@pytest.fixture
def changed(config, batch):
    """Augments a batch as the recipe says, with `settings` in place of the recipe's."""

    def changed(seed=0, original=batch, clips=4, rows=range(4), **settings):
        augmentation = config.recipe.training.augmentation.model_copy(update=settings)
        draws = Draws(torch.Generator().manual_seed(seed), clips, np.array(rows), torch.device("cpu"))
        return augment(original, augmentation, config.recipe.features, draws)

    return changed


def part(batch, chosen):
    tensors = {f.name: getattr(batch, f.name)[chosen] for f in dataclasses.fields(batch) if f.name != "clip_ids"}
    return dataclasses.replace(batch, clip_ids=[batch.clip_ids[i] for i in chosen], **tensors)


def test_augmentation_follows_from_its_seed_and_leaves_padding_alone(changed, batch):
    first, again, other = changed(0, roll_s=1.0), changed(0, roll_s=1.0), changed(1, roll_s=1.0)
    torch.testing.assert_close(first.frames, again.frames, atol=0, rtol=0)
    torch.testing.assert_close(first.log_mel, again.log_mel, atol=0, rtol=0)
    assert (first.frames != other.frames).any()
    assert (first.log_mel != other.log_mel).any()
    for row, hops in zip(first.log_mel, batch.mel_frames, strict=True):
        assert (row[:, int(hops) :] == SILENCE).all()
    assert first.frames.min() >= 0
    assert first.frames.max() <= 255


def test_a_clip_is_changed_in_the_same_way_on_any_process(changed, batch):
    settings = {"roll_s": 1.0, "drop_video": 0.3, "drop_audio": 0.3}
    whole = changed(0, **settings)
    for rows in ([0, 2], [1, 3]):
        share = changed(0, original=part(batch, rows), rows=rows, **settings)
        for name in ("frames", "log_mel", "has_video", "mel_frames"):
            torch.testing.assert_close(getattr(share, name), getattr(whole, name)[rows])


def test_all_frames_of_a_clip_change_in_the_same_way_and_clips_differently(changed, batch):
    same = dataclasses.replace(batch, frames=batch.frames[:1, :1].expand_as(batch.frames))
    frames = changed(original=same).frames
    torch.testing.assert_close(frames, frames[:, :1].expand_as(frames))
    assert (frames[0] != frames[1]).any()


def test_settings_at_zero_change_nothing(changed, batch):
    off = changed(**OFF)
    torch.testing.assert_close(off.frames, batch.frames.float(), atol=1e-2, rtol=0)
    torch.testing.assert_close(off.log_mel, batch.log_mel.float())
    assert off.has_video.all()


def test_the_sound_is_rolled_within_its_own_length(changed, batch):
    rolled = changed(**{**OFF, "roll_s": 1.0})
    moved = 0
    for before, after, hops in zip(batch.log_mel.float(), rolled.log_mel, batch.mel_frames.tolist(), strict=True):
        shifts = [s for s in range(-100, 101) if hops and torch.equal(before[:, :hops].roll(s, 1), after[:, :hops])]
        assert bool(shifts) == bool(hops), "a roll by at most 1 s = 100 hops"
        moved += bool(shifts) and shifts != [0]
    assert moved


def test_a_dropped_modality_is_masked_and_no_clip_loses_both(changed, batch):
    seen = set()
    for seed in range(30):
        dropped = changed(seed, **{**OFF, "drop_video": 0.5, "drop_audio": 0.499})
        for row in range(4):
            seen.add((bool(dropped.has_video[row]), bool(dropped.mel_frames[row] > 0)))
            if not dropped.mel_frames[row]:
                assert (dropped.log_mel[row] == SILENCE).all()
    assert seen == {(True, False), (False, True)}
    without_video = dataclasses.replace(batch, has_video=torch.zeros(4, dtype=torch.bool))
    kept = changed(original=without_video, **{**OFF, "drop_audio": 0.999})
    assert torch.equal(kept.mel_frames, batch.mel_frames), "a clip keeps its only modality"


def test_shares_of_dropped_modalities_above_one_are_refused(values):
    values["recipe"]["training"]["augmentation"] |= {"drop_video": 0.6, "drop_audio": 0.6}
    with pytest.raises(UserError, match="exceed 1 together"):
        parse_config(values, "params.yaml")
