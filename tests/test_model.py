import dataclasses

import pytest
import torch

from pipeline.augmentation import augment
from pipeline.features import LEVELS
from pipeline.loader import Batch
from pipeline.model import GroupEmotionModel, time_encoding

SILENCE = LEVELS["librosa"].silence


@pytest.fixture
def batch(features):
    """Four random clips of 2, 3, 4 and 5 s; the last one has no sound."""
    torch.manual_seed(0)
    clips, size = 4, features.frame_size_px
    mel_frames = torch.tensor([201, 301, 401, 0])
    log_mel = torch.full((clips, features.mel_bins, features.max_mel_frames), SILENCE)
    for row, hops in zip(log_mel, mel_frames, strict=True):
        row[:, :hops] = torch.randn(features.mel_bins, int(hops)) * 20 - 40
    return Batch(
        clip_ids=["1_1", "1_2", "2_1", "2_2"],
        frames=torch.randint(0, 256, (clips, features.frames, 3, size, size), dtype=torch.uint8),
        frame_times_s=torch.arange(features.frames) * torch.tensor([[0.3], [0.5], [0.7], [0.8]]),
        log_mel=log_mel,
        mel_frames=mel_frames,
        labels=torch.tensor([0, 1, 2, 0]),
    )


@pytest.fixture
def build(config):
    def build(**changes):
        torch.manual_seed(0)
        settings = config.recipe.model.model_copy(update=changes)
        return GroupEmotionModel(settings, config.recipe.features).eval()

    return build


def rows(batch, chosen):
    """Some clips of a batch."""
    tensors = {f.name: getattr(batch, f.name)[chosen] for f in dataclasses.fields(batch) if f.name != "clip_ids"}
    return Batch(clip_ids=[batch.clip_ids[i] for i in chosen], **tensors)


@pytest.mark.parametrize("fusion", ["cross_attention", "video", "audio"])
def test_every_parameter_is_trained_through_the_fusion(fusion, build, batch):
    model = build(fusion=fusion).train()
    model(batch).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Adding a constant to all keys changes no softmax: the key's part of this bias has no effect by construction.
    assert [name for name in idle if not name.endswith("in_proj_bias")] == []


@pytest.mark.parametrize("fusion", ["cross_attention", "audio"])
def test_a_batch_in_which_no_clip_has_sound_gives_no_nan(fusion, build, batch):
    model = build(fusion=fusion).train()
    silent = rows(batch, [3, 3])
    loss = model(silent).square().sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_tokens_behind_the_end_of_the_sound_are_masked(build, batch):
    _, padding = build().audio_tokens(batch)
    sounding = [1 + -(-int(hops) // 16) for hops in batch.mel_frames]  # 1: the summary token, which is always there
    assert (~padding).sum(dim=1).tolist() == sounding


def test_a_clips_logits_do_not_depend_on_its_batch(build, batch):
    model = build()
    alone = torch.cat([model(rows(batch, [i])) for i in range(4)])
    torch.testing.assert_close(alone, model(batch), atol=1e-5, rtol=1e-5)


def test_both_modalities_and_the_times_matter_to_the_fused_model(build, batch):
    model = build()
    logits = model(batch)
    other_frames = dataclasses.replace(batch, frames=255 - batch.frames)
    other_sound = dataclasses.replace(batch, log_mel=batch.log_mel * 0.5)
    other_times = dataclasses.replace(batch, frame_times_s=batch.frame_times_s + 1)
    for other in (other_frames, other_times):
        assert ((model(other) - logits).abs().amax(dim=1) > 1e-6).all()
    changed = (model(other_sound) - logits).abs().amax(dim=1)
    assert (changed[:3] > 1e-6).all()
    assert changed[3] == 0  # the clip without sound


@pytest.mark.parametrize(("fusion", "other"), [("video", "log_mel"), ("audio", "frames")])
def test_a_single_modality_sees_nothing_of_the_other(fusion, other, build, batch):
    model = build(fusion=fusion)
    changed = dataclasses.replace(batch, **{other: torch.zeros_like(getattr(batch, other))})
    torch.testing.assert_close(model(changed), model(batch), atol=0, rtol=0)


def test_times_are_encoded_in_seconds_and_told_apart():
    encoded = time_encoding(torch.tensor([0.0, 0.1, 1.0, 1.0]), 32)
    assert encoded.shape == (4, 32)
    torch.testing.assert_close(encoded[2], encoded[3])
    assert (encoded[0] - encoded[1]).norm() > 0.1


def test_augmentation_follows_from_its_generator_and_leaves_padding_alone(config, batch):
    recipe = config.recipe

    def changed(seed):
        generator = torch.Generator().manual_seed(seed)
        return augment(batch, recipe.training.augmentation, recipe.features, generator)

    first, again, other = changed(0), changed(0), changed(1)
    torch.testing.assert_close(first.frames, again.frames, atol=0, rtol=0)
    torch.testing.assert_close(first.log_mel, again.log_mel, atol=0, rtol=0)
    assert (first.frames != other.frames).any()
    assert (first.log_mel != other.log_mel).any()
    for row, hops in zip(first.log_mel, batch.mel_frames, strict=True):
        assert (row[:, int(hops) :] == SILENCE).all()
    assert first.frames.min() >= 0
    assert first.frames.max() <= 255


def test_augmentation_changes_all_frames_of_a_clip_alike(config, batch):
    same = dataclasses.replace(batch, frames=batch.frames[:, :1].expand_as(batch.frames))
    recipe = config.recipe
    changed = augment(same, recipe.training.augmentation, recipe.features, torch.Generator().manual_seed(0))
    torch.testing.assert_close(changed.frames, changed.frames[:, :1].expand_as(changed.frames))


def test_augmentation_that_is_switched_off_changes_nothing(config, batch):
    off = config.recipe.training.augmentation.model_copy(
        update={
            "flip": False,
            "min_crop": 1.0,
            "color_jitter": 0.0,
            "gain_db": 0.0,
            "mask_mel_bins": 0,
            "mask_time_s": 0.0,
        }
    )
    changed = augment(batch, off, config.recipe.features, torch.Generator().manual_seed(0))
    torch.testing.assert_close(changed.frames, batch.frames.float(), atol=1e-2, rtol=0)
    torch.testing.assert_close(changed.log_mel, batch.log_mel)
