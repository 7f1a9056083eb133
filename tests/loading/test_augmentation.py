"""What every random change to a batch promises, whichever it is."""

import dataclasses

import pytest
import torch
from augmented import ALONE, EACH, OFF, PICTURES, SOUND, part, tensors_of

from pipeline.common.augmentation_settings import AugmentationSettings
from pipeline.common.config import parse_config
from pipeline.common.errors import UserError
from pipeline.shards.log_mel_units import LEVELS

SILENCE = LEVELS["librosa"].silence
each_setting = pytest.mark.parametrize("settings", EACH.values(), ids=EACH)
each_but_mixup = pytest.mark.parametrize("settings", ALONE.values(), ids=ALONE)


def is_equal(first, second):
    first, second = tensors_of(first), tensors_of(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_every_setting_is_tested_here():
    assert set(OFF) == set(AugmentationSettings.model_fields)
    assert set(EACH) - {"everything"} == set(OFF) - {"drop_final"}, "which changes the others over the training"


@each_setting
def test_what_is_changed_follows_from_the_seed(changed, settings):
    first, *others = [changed(seed, **settings) for seed in range(5)]
    assert is_equal(first, changed(0, **settings))
    assert not all(is_equal(first, other) for other in others)
    assert not all(is_equal(changed(), other) for other in others)


def test_settings_that_are_off_change_nothing(changed, batch):
    floats = dataclasses.replace(batch, frames=batch.frames.float(), log_mel=batch.log_mel.float())
    assert is_equal(changed(), floats)


@each_setting
def test_a_clip_is_changed_in_the_same_way_on_any_process(changed, batch, settings):
    whole = changed(2, **settings)
    shares = [[0, 1], [2, 3]] if settings.get("mixup_alpha") else [[0, 1], [2, 3], [0, 2], [1, 3], [3]]
    for rows in shares:
        share = changed(2, original=part(batch, rows), rows=rows, **settings)
        made = tensors_of(share)
        for name, value in tensors_of(part(whole, rows)).items():
            torch.testing.assert_close(made[name], value)


@each_but_mixup
def test_a_clip_is_changed_in_the_same_way_whatever_the_other_clips_are(changed, batch, settings):
    others = part(batch, [3, 1, 0, 2])
    before, after = changed(2, **settings), changed(2, original=others, **settings)
    assert is_equal(part(before, [1]), part(after, [1]))


@each_setting
def test_all_frames_of_a_clip_change_in_the_same_way(changed, batch, settings):
    same = dataclasses.replace(batch, frames=batch.frames[:, :1].expand_as(batch.frames))
    frames = changed(2, original=same, **settings).frames
    torch.testing.assert_close(frames, frames[:, :1].expand_as(frames))


@pytest.mark.parametrize("settings", [{name: value} for name, value in PICTURES.items()], ids=PICTURES)
def test_clips_of_the_same_pictures_change_differently(changed, batch, settings):
    same = dataclasses.replace(batch, frames=batch.frames[:1].expand_as(batch.frames))
    frames = changed(2, original=same, **settings).frames
    assert any((frames[0] != frames[row]).any() for row in range(1, 4))


@each_setting
@pytest.mark.parametrize("front_end", LEVELS)
def test_the_padding_of_a_log_mel_stays_silence(changed, batch, features, settings, front_end):
    silence = LEVELS[front_end].silence
    padding = torch.arange(batch.log_mel.shape[2]) >= batch.mel_frames[:, None, None]
    made = dataclasses.replace(batch, log_mel=batch.log_mel.float().masked_fill(padding, silence))
    for seed in range(5):
        after = changed(seed, original=made, features=features.model_copy(update={"front_end": front_end}), **settings)
        assert after.mel_frames.max() <= after.log_mel.shape[2]
        for row, hops in zip(after.log_mel, after.mel_frames.tolist(), strict=True):
            assert (row[:, hops:] == silence).all()


@each_setting
def test_a_clip_without_video_or_sound_stays_so(changed, batch, settings):
    original = dataclasses.replace(batch, has_video=torch.tensor([True, False, True, True]))
    for seed in range(5):
        after = changed(seed, original=original, **settings)
        assert all(value.isfinite().all() for value in tensors_of(after).values())
        assert (after.mel_frames[3], bool(after.has_video[1])) == (0, False)
        assert (after.log_mel[3] == SILENCE).all()
        assert after.frames.min() >= 0
        assert after.frames.max() <= 255


@pytest.mark.parametrize("setting", [*SOUND, "tempo", "drop"])
def test_a_change_of_the_sound_changes_no_picture(changed, setting):
    assert torch.equal(changed(**PICTURES).frames, changed(**PICTURES, **EACH[setting]).frames)


@pytest.mark.parametrize("setting", PICTURES)
def test_a_change_of_the_pictures_changes_no_sound(changed, setting):
    assert torch.equal(changed(**SOUND).log_mel, changed(**SOUND, **EACH[setting]).log_mel)


@pytest.mark.parametrize("setting", ["translation", "rotation_deg", "erasing", "noise_db", "pitch_mel_bins"])
def test_a_setting_that_is_turned_on_changes_no_numbers_of_others(changed, setting):
    off, trifle = EACH["everything"] | {setting: 0.0}, EACH["everything"] | {setting: 1e-6}
    for name in ("frames", "log_mel"):
        torch.testing.assert_close(
            getattr(changed(1, **off), name), getattr(changed(1, **trifle), name), atol=0.1, rtol=0
        )


def test_streams_are_dropped_as_often_as_their_shares_say_and_no_clip_loses_two(changed):
    shares = {"scene": 0.5, "sound": 0.2, "people": 0.1}
    hidden = [changed(seed, drop=shares).hidden for seed in range(200)]
    dropped = {name: torch.cat([each[name] for each in hidden]).float() for name in shares}
    assert sum(dropped.values()).max() == 1
    for name, share in shares.items():  # 800 clips: a standard error is .018 at most
        assert dropped[name].mean() == pytest.approx(share, abs=0.054)


def test_what_is_dropped_stays_as_it_is_for_the_statistics_of_batch_norm(changed):
    settings = PICTURES | SOUND | {"tempo": 0.2}
    kept, dropped = changed(**settings), changed(**settings, drop={"scene": 0.5, "sound": 0.499})
    assert torch.equal(kept.frames, dropped.frames)
    assert torch.equal(kept.log_mel, dropped.log_mel)


def test_shares_of_dropped_streams_above_one_are_refused(values):
    values["recipe"]["training"]["augmentation"]["drop"] = {"scene": 0.6, "sound": 0.6}
    with pytest.raises(UserError, match="exceed 1 together"):
        parse_config(values, "params.yaml")
