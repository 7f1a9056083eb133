import dataclasses

import pytest
import torch
import torch.nn.functional as F
from augmented import part

SEEDS = range(20)


@pytest.fixture
def sounding(batch):
    """The batch with sound in every clip."""
    loud = part(batch, [0, 1, 2, 2])
    return dataclasses.replace(loud, frames=batch.frames, labels=batch.labels)


def shares(mixed, original):
    """The share that each clip keeps of itself; the labels of a pair differ."""
    return mixed.labels[torch.arange(4), original.labels]


def test_pictures_sound_and_labels_of_a_pair_are_mixed_in_the_same_shares(changed, sounding):
    partner = torch.tensor([1, 0, 3, 2])
    frames, log_mel, one_hot = sounding.frames.float(), sounding.log_mel.float(), F.one_hot(sounding.labels).float()
    for seed in SEEDS:
        mixed = changed(seed, original=sounding, mixup_alpha=0.4)
        share = shares(mixed, sounding)
        assert (share[0], share[2]) == (share[1], share[3])
        assert share.min() >= 0.5
        for before, after in ((frames, mixed.frames), (log_mel, mixed.log_mel), (one_hot, mixed.labels)):
            kept = share.view(-1, *[1] * (before.dim() - 1))
            torch.testing.assert_close(after, kept * before + (1 - kept) * before[partner])
        assert torch.equal(mixed.mel_frames, torch.maximum(sounding.mel_frames, sounding.mel_frames[partner]))
        assert torch.equal(mixed.frame_times_s, sounding.frame_times_s)


def test_a_larger_alpha_mixes_more_and_pairs_are_mixed_differently(changed, sounding):
    means = []
    for alpha in (0.05, 1.0, 50.0):
        drawn = torch.stack([shares(changed(s, original=sounding, mixup_alpha=alpha), sounding) for s in SEEDS])
        assert (drawn[:, 0] != drawn[:, 2]).any()
        means.append(float(drawn.mean()))
    assert means[0] > 0.9 > means[1] > 0.6 > means[2]


def test_a_pair_in_which_one_clip_lacks_a_modality_stays_as_it_is(changed, batch, sounding):
    without_sound, without_video = sounding.mel_frames.clone(), torch.ones(4, dtype=torch.bool)
    without_sound[1], without_video[2] = 0, False
    original = dataclasses.replace(sounding, mel_frames=without_sound, has_video=without_video)
    kept = changed(original=original, mixup_alpha=5.0)
    assert torch.equal(kept.frames, original.frames.float())
    assert torch.equal(kept.log_mel, original.log_mel.float())
    assert torch.equal(kept.mel_frames, original.mel_frames)
    assert torch.equal(kept.labels, F.one_hot(original.labels).float())


def test_a_pair_stays_as_it_is_if_one_of_its_clips_alone_loses_a_stream(changed, sounding):
    for seed in SEEDS:
        mixed = changed(seed, original=sounding, mixup_alpha=5.0, drop={"scene": 0.5, "sound": 0.0})
        hidden = mixed.hidden["scene"]
        assert torch.equal(shares(mixed, sounding) < 1, hidden == hidden[[1, 0, 3, 2]])


def test_labels_that_are_not_mixed_give_the_loss_of_their_class(changed, batch):
    logits = torch.randn(4, 3)
    unmixed = dataclasses.replace(batch, has_video=torch.tensor([True, False, True, False]))
    labels = changed(original=unmixed, mixup_alpha=1.0).labels
    expected = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
    torch.testing.assert_close(F.cross_entropy(logits, labels, label_smoothing=0.1), expected)


def test_without_mixup_labels_stay_classes(changed, batch):
    assert torch.equal(changed().labels, batch.labels)
