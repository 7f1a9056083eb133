import dataclasses
from typing import get_args

import pytest
import torch

from pipeline.common.config import Backbone, Fusion
from pipeline.loading.loader import Batch
from pipeline.models.fusion import time_encoding
from pipeline.models.model import GroupEmotionModel


@pytest.fixture
def build(config):
    def build(**changes):
        torch.manual_seed(0)
        return GroupEmotionModel(build.settings(**changes), config.recipe.features).eval()

    build.settings = lambda **changes: config.recipe.model.model_copy(update=changes)
    return build


def rows(batch, chosen):
    """Some clips of a batch."""
    tensors = {f.name: getattr(batch, f.name)[chosen] for f in dataclasses.fields(batch) if f.name != "clip_ids"}
    return Batch(clip_ids=[batch.clip_ids[i] for i in chosen], **tensors)


@pytest.mark.parametrize("pooling", ["mean", "learned"])
@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_every_parameter_is_trained_through_the_fusion(fusion, pooling, build, batch):
    model = build(fusion=fusion, pooling=pooling).train()
    model(batch).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Adding a constant to all keys changes no softmax: the key's part of this bias has no effect by construction.
    assert [name for name in idle if not name.endswith("in_proj_bias")] == []


@pytest.mark.parametrize("fusion", [fusion for fusion in get_args(Fusion) if fusion != "video"])
def test_a_batch_in_which_no_clip_has_sound_gives_no_nan(fusion, build, batch):
    model = build(fusion=fusion).train()
    silent = rows(batch, [3, 3])
    loss = model(silent).square().sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("fusion", [fusion for fusion in get_args(Fusion) if fusion != "audio"])
def test_a_batch_in_which_no_clip_has_video_gives_no_nan(fusion, build, batch):
    model = build(fusion=fusion).train()
    blind = dataclasses.replace(batch, has_video=torch.zeros(4, dtype=torch.bool))
    loss = model(blind).square().sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_what_a_clip_without_video_shows_does_not_matter(build, batch):
    model = build()
    blind = dataclasses.replace(batch, has_video=torch.tensor([False, True, True, True]))
    other = dataclasses.replace(blind, frames=255 - blind.frames)
    changed = (model(other) - model(blind)).abs().amax(dim=1)
    assert changed[0] == 0
    assert (changed[1:] > 1e-6).all()


def test_tokens_behind_the_end_of_the_sound_are_masked(build, batch):
    padding = build().tokens(batch)["audio"].padding
    assert (~padding).sum(dim=1).tolist() == [-(-int(hops) // 16) for hops in batch.mel_frames]


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


def test_gradient_checkpointing_is_the_backbones_own_and_changes_no_gradient(build, batch):
    gradients = []
    for again in (False, True):
        model = build(gradient_checkpointing=again, dropout=0.0).train()
        assert [network.recomputes for network in model.backbones().values()] == [again, again]
        model(batch).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_a_token_has_the_time_that_it_is_centred_on(build, batch, features):
    tokens = build().tokens(batch)
    assert tokens["audio"].times_s[:2].tolist() == pytest.approx([0.0, 0.16])  # hops 0 and 16, of 10 ms
    vit = {"name": "vit_tiny_patch16_224", "weights": "none", "sha256": None, "min_matched": 0.9, "grid": 1}
    heard = GroupEmotionModel(build.settings(fusion="audio", audio=Backbone(**vit)), features).tokens(batch)["audio"]
    assert heard.times_s[:2].tolist() == pytest.approx([0.075, 0.235])  # between hops 7 and 8, 23 and 24
    assert (~heard.padding).sum(dim=1).tolist() == [-(-int(hops) // 16) for hops in batch.mel_frames]
    torch.testing.assert_close(tokens["video"].times_s, batch.frame_times_s)
    clip_network = features.model_copy(update={"frames": 8})
    video = {"name": "swin3d_t", "weights": "none", "sha256": None, "min_matched": 0.9, "grid": 1}
    settings = build.settings(fusion="video", video=Backbone(**video))
    eight = dataclasses.replace(
        batch, frames=torch.zeros(4, 8, 3, 32, 32), frame_times_s=torch.arange(8.0).expand(4, 8).contiguous()
    )
    times_s = GroupEmotionModel(settings, clip_network).tokens(eight)["video"].times_s
    assert times_s[0].tolist() == [0.5, 2.5, 4.5, 6.5]


def test_kaldis_hops_are_in_the_middle_of_their_window(features):
    kaldi = features.model_copy(update={"front_end": "kaldi"})
    assert [front.hop_time_s(3) for front in (features, kaldi)] == pytest.approx([0.03, 0.0425])
