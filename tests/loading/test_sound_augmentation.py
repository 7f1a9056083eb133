import dataclasses
import math

import pytest
import torch

from pipeline.shards.log_mel_units import LEVELS

SEEDS = range(10)


def with_log_mel(batch, values):
    """The batch with the sound `values`, (mel_bins, T) or what expands to it, and full silence behind each clip."""
    hops = torch.arange(batch.log_mel.shape[2])
    sounding = hops < batch.mel_frames[:, None, None]
    silence = torch.tensor(LEVELS["librosa"].silence)
    return dataclasses.replace(batch, log_mel=torch.where(sounding, values.expand_as(batch.log_mel), silence))


def test_the_sound_is_rolled_within_its_own_length(changed, batch):
    rolled = changed(roll_s=1.0)
    moved = 0
    for before, after, hops in zip(batch.log_mel.float(), rolled.log_mel, batch.mel_frames.tolist(), strict=True):
        shifts = [s for s in range(-100, 101) if hops and torch.equal(before[:, :hops].roll(s, 1), after[:, :hops])]
        assert bool(shifts) == bool(hops), "a roll by at most 1 s = 100 hops"
        moved += bool(shifts) and shifts != [0]
    assert moved


def test_the_tempo_changes_frames_and_sound_together(changed, batch):
    hops = torch.arange(batch.log_mel.shape[2])
    original = with_log_mel(batch, hops.float())
    speeds = []
    for seed in SEEDS:
        after = changed(seed, original=original, tempo=0.3)
        speed = batch.frame_times_s[:, -1] / after.frame_times_s[:, -1]
        speeds += speed.tolist()
        torch.testing.assert_close(after.frame_times_s * speed[:, None], batch.frame_times_s)
        for row, (count, old) in enumerate(zip(after.mel_frames.tolist(), batch.mel_frames.tolist(), strict=True)):
            whole = int((old - 1) / float(speed[row])) + 1 if old else 0
            assert count == min(whole, len(hops))
            expected = (hops[:count] * speed[row]).expand(batch.log_mel.shape[1], -1)
            torch.testing.assert_close(after.log_mel[row, :, :count], expected, atol=1e-3, rtol=0)
    assert 0.7 <= min(speeds) < 0.8
    assert 1.2 < max(speeds) <= 1.3


def test_the_end_of_a_slower_clip_stays_within_the_padded_length(changed, batch):
    longest = batch.log_mel.shape[2]
    full = dataclasses.replace(batch, mel_frames=torch.full_like(batch.mel_frames, longest))
    counts = torch.cat([changed(seed, original=full, tempo=0.3).mel_frames for seed in SEEDS])
    assert counts.max() == longest
    assert counts.min() < longest


def test_a_slower_clip_is_whole_though_its_step_has_shorter_log_mels(changed, batch, config):
    hops, speeds = 200, []
    full = torch.full_like(batch.mel_frames, hops)
    short = dataclasses.replace(batch, log_mel=batch.log_mel[..., :hops], mel_frames=full)
    for seed in SEEDS:
        after = changed(seed, original=short, tempo=0.3)
        speed = short.frame_times_s[:, -1] / after.frame_times_s[:, -1]
        assert after.mel_frames.tolist() == ((hops - 1) / speed).floor().long().add(1).tolist()
        assert after.log_mel.shape[-1] == min(math.ceil(hops / 0.7), config.recipe.features.max_mel_frames)
        speeds += speed.tolist()
    assert min(speeds) < 0.8


def test_a_spectrum_is_shifted_by_a_part_of_a_bin_and_its_edges_are_repeated(changed, batch):
    bins = torch.arange(batch.log_mel.shape[1]).float()
    original = with_log_mel(batch, bins[:, None])
    shifts = []
    for seed in SEEDS:
        after = changed(seed, original=original, pitch_mel_bins=2.5).log_mel
        for row, hops in enumerate(batch.mel_frames.tolist()[:3]):
            shift = float(bins[32] - after[row, 32, 0])
            shifts.append(shift)
            expected = (bins - shift).clamp(0, len(bins) - 1)[:, None].expand(-1, hops)
            torch.testing.assert_close(after[row, :, :hops], expected, atol=1e-4, rtol=0)
    assert -2.5 <= min(shifts) < -1.5
    assert 1.5 < max(shifts) <= 2.5
    assert any(abs(shift - round(shift)) > 0.2 for shift in shifts)


@pytest.mark.parametrize("front_end", LEVELS)
def test_noise_has_a_deviation_of_up_to_its_decibels(changed, batch, features, front_end):
    features = features.model_copy(update={"front_end": front_end})
    deviations_db = []
    for seed in SEEDS:
        noise = (changed(seed, features=features, noise_db=4.0).log_mel - batch.log_mel) / LEVELS[front_end].decibel
        for row, hops in enumerate(batch.mel_frames.tolist()[:3]):
            deviation = noise[row, :, :hops].std()
            deviations_db.append(deviation)
            assert noise[row, :, :hops].mean().abs() < 0.1
    assert max(deviations_db) <= 4.1
    assert max(deviations_db) > 3
    assert min(deviations_db) < 1
