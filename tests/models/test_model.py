"""The whole model: what its logits depend on, and what they must not depend on."""

import dataclasses
import json

import pytest
import torch
from helpers import FUSIONS
from safetensors.torch import load_file, save_file

from pipeline.clips.labels import CLASSES
from pipeline.common.model_settings import StreamSettings
from pipeline.loading.batch import Batch
from pipeline.models.fusion import time_encoding
from pipeline.models.model import GroupEmotionModel


@pytest.fixture
def build_model(config):
    """Builds a model with some of the demo's settings changed; `features` replaces the demo's."""

    def build_model(features=config.recipe.features, **changes):
        torch.manual_seed(0)
        return GroupEmotionModel(config.recipe.model.model_copy(update=changes), features, CLASSES).eval()

    return build_model


def select(batch, clips):
    """The clips of a batch at some positions."""
    tensors = {name: value[clips] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return Batch(clip_ids=[batch.clip_ids[i] for i in clips], **tensors)


@pytest.mark.parametrize("pooling", ["mean", "learned"])
@pytest.mark.parametrize("kind", FUSIONS)
def test_every_parameter_is_trained_through_the_fusion(kind, pooling, build_model, batch):
    model = build_model(**FUSIONS[kind], pooling=pooling).train()
    model(batch).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Adding a constant to all keys changes no softmax: the key's part of this bias has no effect by construction.
    assert [name for name in idle if not name.endswith("in_proj_bias")] == []


@pytest.mark.parametrize("kind", [kind for kind in FUSIONS if kind != "scene"])
def test_a_batch_in_which_no_clip_has_sound_gives_no_nan(kind, build_model, batch):
    model = build_model(**FUSIONS[kind]).train()
    silent = select(batch, [3, 3])
    loss = model(silent).square().sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", [kind for kind in FUSIONS if kind != "sound"])
def test_a_batch_in_which_no_clip_has_video_gives_no_nan(kind, build_model, batch):
    model = build_model(**FUSIONS[kind]).train()
    blind = dataclasses.replace(batch, has_video=torch.zeros(4, dtype=torch.bool))
    loss = model(blind).square().sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_frames_of_a_clip_without_video_do_not_matter(build_model, batch):
    model = build_model()
    blind = dataclasses.replace(batch, has_video=torch.tensor([False, True, True, True]))
    other = dataclasses.replace(blind, frames=255 - blind.frames)
    changed = (model(other) - model(blind)).abs().amax(dim=1)
    assert changed[0] == 0
    assert (changed[1:] > 1e-6).all()


def test_the_log_mel_of_a_clip_without_sound_does_not_matter(build_model, batch):
    silent = dataclasses.replace(batch, mel_frames=torch.zeros(4, dtype=torch.long))
    other = dataclasses.replace(silent, log_mel=batch.log_mel.flip(0))
    assert not torch.equal(silent.log_mel, other.log_mel)
    model = build_model()
    assert torch.equal(model(silent), model(other))


def test_tokens_after_the_end_of_the_sound_are_padding(build_model, batch):
    padding = build_model().tokens(batch)["sound"].padding
    assert (~padding).sum(dim=1).tolist() == [-(-int(hops) // 16) for hops in batch.mel_frames]


def test_a_clips_logits_do_not_depend_on_its_batch(build_model, batch):
    model = build_model()
    alone = torch.cat([model(select(batch, [i])) for i in range(4)])
    torch.testing.assert_close(alone, model(batch), atol=1e-5, rtol=1e-5)


def test_both_streams_and_the_times_matter_to_the_fused_model(build_model, batch):
    model = build_model()
    logits = model(batch)
    other_frames = dataclasses.replace(batch, frames=255 - batch.frames)
    other_sound = dataclasses.replace(batch, log_mel=batch.log_mel * 0.5)
    other_times = dataclasses.replace(batch, frame_times_s=batch.frame_times_s + 1)
    for other in (other_frames, other_times):
        assert ((model(other) - logits).abs().amax(dim=1) > 1e-6).all()
    changed = (model(other_sound) - logits).abs().amax(dim=1)
    assert (changed[:3] > 1e-6).all()
    assert changed[3] == 0  # the clip without sound


@pytest.mark.parametrize(("kind", "other"), [("scene", "log_mel"), ("sound", "frames")])
def test_a_model_of_one_stream_does_not_depend_on_the_other(kind, other, build_model, batch):
    model = build_model(**FUSIONS[kind])
    changed = dataclasses.replace(batch, **{other: torch.zeros_like(getattr(batch, other))})
    torch.testing.assert_close(model(changed), model(batch), atol=0, rtol=0)


def test_different_times_have_different_encodings():
    encoded = time_encoding(torch.tensor([0.0, 0.1, 1.0, 1.0]), 32)
    assert encoded.shape == (4, 32)
    torch.testing.assert_close(encoded[2], encoded[3])
    assert (encoded[0] - encoded[1]).norm() > 0.1


def test_gradient_checkpointing_is_set_in_the_backbones_and_changes_no_gradient(build_model, batch):
    gradients = []
    for recomputes in (False, True):
        model = build_model(gradient_checkpointing=recomputes, dropout=0.0).train()
        assert [network.recomputes for network in model.backbones().values()] == [recomputes, recomputes]
        model(batch).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for stored, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(stored, recomputed)


RANDOM = {"weights": "none", "sha256": None, "min_matched": 0.9, "frames": None, "grid": 1}


def test_a_token_has_the_time_of_its_frame_or_its_hop(build_model, batch):
    tokens = build_model().tokens(batch)
    torch.testing.assert_close(tokens["scene"].times_s, batch.frame_times_s)
    assert tokens["sound"].times_s[:2].tolist() == pytest.approx([0.07, 0.23])  # hops 7 and 23, of 10 ms


def test_a_token_of_a_patch_has_the_time_of_the_middle_of_the_patch(build_model, batch):
    patches = StreamSettings(input="log_mel", network="vit_tiny_patch16_224", **RANDOM)
    tokens = build_model(use=["sound"], streams={"sound": patches}).tokens(batch)["sound"]
    assert tokens.times_s[:2].tolist() == pytest.approx([0.075, 0.235])  # between hops 7 and 8, 23 and 24
    assert (~tokens.padding).sum(dim=1).tolist() == [-(-int(hops) // 16) for hops in batch.mel_frames]


def test_a_token_of_several_frames_has_the_time_of_their_middle(build_model, batch, features):
    eight_frames = features.model_copy(update={"frames": 8})
    clip_network = StreamSettings(input="frames", network="swin3d_t", **RANDOM)
    model = build_model(eight_frames, frames=8, use=["scene"], streams={"scene": clip_network})
    times_s = torch.arange(8.0).expand(4, 8).contiguous()
    clips = dataclasses.replace(batch, frames=torch.zeros(4, 8, 3, 32, 32), frame_times_s=times_s)
    assert model.tokens(clips)["scene"].times_s[0].tolist() == [0.5, 2.5, 4.5, 6.5]


def test_a_model_of_an_earlier_version_takes_all_frames_in_one_view(build_model, batch, features, tmp_path):
    model = build_model(frames=features.frames, views=1)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["settings"]["frames"], config["settings"]["views"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = GroupEmotionModel.from_pretrained(tmp_path, strict=True)
    assert loaded.sampling == model.sampling
    torch.testing.assert_close(loaded(batch), model(batch), atol=0, rtol=0)


@pytest.mark.parametrize(("use", "views"), [(["scene", "sound"], 3), (["scene"], 3), (["sound"], 1)])
def test_a_clip_has_one_view_if_no_stream_takes_pictures(build_model, use, views):
    """The sound is the same in all views."""
    assert build_model(frames=2, views=3, use=use).sampling.views == views


def test_a_model_that_takes_fewer_frames_than_are_stored_is_saved_and_loaded(build_model, features, tmp_path):
    model = build_model(frames=2, views=3)
    model.save_pretrained(tmp_path)
    loaded = GroupEmotionModel.from_pretrained(tmp_path, strict=True)
    assert loaded.sampling == model.sampling
    assert (loaded.features.frames, loaded.inputs.frames) == (features.frames, 2)
    assert loaded.backbones()["scene"].interface.takes[0] == 2


def test_kaldis_hops_are_in_the_middle_of_their_window(features):
    kaldi = features.model_copy(update={"front_end": "kaldi"})
    assert [front.hop_time_s(3) for front in (features, kaldi)] == pytest.approx([0.03, 0.0425])


def test_a_hidden_stream_is_padding_unless_the_clip_has_no_other(build_model, batch):
    model = build_model()
    everywhere, nowhere = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    has_video = torch.tensor([True, False, True, True])  # and clip 3 has no sound
    partial = dataclasses.replace(batch, has_video=has_video)
    before = model.tokens(partial)
    after = model.tokens(dataclasses.replace(partial, hidden={"scene": everywhere, "sound": nowhere}))
    assert after["scene"].padding.all(dim=1).tolist() == [True, True, True, False]
    assert torch.equal(after["sound"].padding, before["sound"].padding)


def test_weights_and_settings_of_1_0_0_make_the_same_model(build_model, batch, tmp_path):
    model = build_model(frames=6, views=1)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    settings = config["settings"]
    video, audio = (
        {"name": stream.pop("network"), **{key: value for key, value in stream.items() if key != "input"}}
        for stream in settings.pop("streams").values()
    )
    del settings["use"], settings["frames"], settings["views"], settings["norm_clips"]
    config["settings"] = settings | {"video": video, "audio": audio}
    (tmp_path / "config.json").write_text(json.dumps(config))
    old_names = {
        ".blocks.scene.": ".video_to_audio.",
        ".blocks.sound.": ".audio_to_video.",
        ".scene.": ".video.",
        ".sound.": ".audio.",
    }
    weights = load_file(tmp_path / "model.safetensors")
    for new, old in old_names.items():
        weights = {name.replace(new, old): value for name, value in weights.items()}
    assert "fusion.layers.0.video_to_audio.attention.in_proj_weight" in weights
    save_file(weights, tmp_path / "model.safetensors")
    loaded = GroupEmotionModel.from_pretrained(tmp_path, strict=True)
    assert list(loaded.backbones()) == ["video", "audio"]
    torch.testing.assert_close(loaded(batch), model(batch), atol=0, rtol=0)
