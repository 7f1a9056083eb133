"""Networks of timm on the log-mel: they give what timm itself gives, and refuse settings that do not fit them."""

import re

import pytest
import timm
import torch

from pipeline.common.errors import UserError
from pipeline.models.audio_networks import AUDIOMAE
from pipeline.models.backbone import HUB


@torch.no_grad()
def test_a_network_for_pictures_hears_with_the_sum_of_its_colour_channels(build, take_weights, features):
    network = build("log_mel", "resnet18.tv_in1k")
    published = timm.create_model("resnet18").eval()
    loaded = take_weights(network, published)
    assert list(loaded.reshaped) == ["conv1.weight"]
    assert loaded.unexpected == ["fc.bias", "fc.weight"]
    log_mel = torch.randn(2, features.mel_bins, features.max_mel_frames) * 20 - 40
    padded = torch.nn.functional.pad(log_mel, (0, -features.max_mel_frames % 32), value=-100.0)
    picture = ((padded + 40) / 20).unsqueeze(1).expand(-1, 3, -1, -1)
    expected = published.forward_features(picture).mean(dim=2).transpose(1, 2)
    tokens = network(log_mel)
    torch.testing.assert_close(tokens.squeeze(2), expected, atol=1e-4, rtol=1e-4)
    assert tokens.shape[1:] == network.interface.gives


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "tolerance"), [("small", 1e-5), ("resnet18.tv_in1k", 0.05), ("convnext_atto.d2_in1k", 0.05)]
)
def test_a_network_for_any_length_gives_the_tokens_of_a_clip_without_the_silence_that_follows(
    name, tolerance, build, features
):
    """The layers of a deep network reach further than half a second, so it tells the end from silence a little."""
    network = build("log_mel", name, max_duration_s=6.0)
    assert network.any_length
    sounding, hops = 200, features.mel_frames(round(2.5 * features.sample_rate_hz))
    log_mel = torch.full((2, features.mel_bins, network.interface.takes[1]), network.levels.silence)
    log_mel[:, :, :sounding] = torch.randn(2, features.mel_bins, sounding) * 20 - 40
    count = -(-sounding // network.interface.stride)
    whole, short = network(log_mel)[:, :count], network(log_mel[..., :hops])
    assert short.shape[1] == -(-hops // network.interface.stride)
    torch.testing.assert_close(short[:, :count], whole, atol=tolerance * whole.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224.ms_in1k", HUB + AUDIOMAE])
def test_a_network_that_takes_one_size_takes_whole_log_mels_alone(name, build):
    features = {"front_end": "kaldi", "mel_bins": 128} if name.startswith(HUB) else {}
    assert not build("log_mel", name, **features).any_length


@torch.no_grad()
def test_a_network_with_two_first_convolutions_hears_with_both(build, take_weights):
    network = build("log_mel", "mobileone_s0")
    loaded = take_weights(network, timm.create_model("mobileone_s0"))
    assert loaded.missing == []
    assert {"stem.conv_kxk.0.conv.weight", "stem.conv_scale.conv.weight"} <= loaded.reshaped.keys()


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("vit_tiny_patch16_224", {"mel_bins": 100}, "mel_bins is 100, but vit_tiny_patch16_224 takes a multiple of 16: set "
     "it to 112"),
    ("resnet18", {"grid": 3}, "which is 2 x 18"),
])  # fmt: skip
def test_a_network_for_sound_refuses_settings_that_do_not_fit(name, changes, message, build):
    with pytest.raises(UserError, match=re.escape(message)):
        build("log_mel", name, **changes)


@pytest.mark.slow
@torch.no_grad()
def test_an_audio_transformer_keeps_the_positions_of_the_first_seconds(build, take_weights):
    network = build("log_mel", HUB + AUDIOMAE, front_end="kaldi", mel_bins=128)
    arguments = {"img_size": (1024, 128), "in_chans": 1, "num_classes": 527, "global_pool": "avg"}
    published = timm.create_model("vit_base_patch16_224", **arguments).eval()
    loaded = take_weights(network, published)
    assert (loaded.missing, loaded.unexpected) == ([], ["head.bias", "head.weight"])
    assert loaded.reshaped == {"pos_embed": "(1, 513, 768) -> (1, 281, 768)"}
    cut = published.pos_embed[:, : 1 + 35 * 8]  # 35 patches of 16 hops are 5.6 s; 8 of 16 bins
    torch.testing.assert_close(network.network.pos_embed, cut, atol=0, rtol=0)
    # The same from timm's own network: its input cut to 560 hops, its tokens averaged over the bins.
    log_mel = torch.randn(1, 128, 548) * 4.5 - 4.3
    padded = torch.nn.functional.pad(log_mel, (0, 12), value=network.levels.silence)
    picture = ((padded + 4.2677393) / (2 * 4.5689974)).transpose(1, 2).unsqueeze(1)
    reference = timm.create_model("vit_base_patch16_224", **(arguments | {"img_size": (560, 128)})).eval()
    reference.load_state_dict(published.state_dict() | {"pos_embed": cut})
    tokens = reference.forward_features(picture)[:, 1:].unflatten(1, (35, 8)).mean(dim=2)
    torch.testing.assert_close(network(log_mel).squeeze(2), reference.fc_norm(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("changes", "message"), [
    ({}, "front_end is librosa, but hf_hub:gaunernst/vit_base_patch16_1024_128.audiomae_as2m_ft_as20k takes kaldi"),
    ({"front_end": "kaldi", "mel_bins": 64}, "mel_bins is 64, but"),
    ({"front_end": "kaldi", "mel_bins": 128, "hop_length": 320}, "hop_length is 320, but"),
    ({"front_end": "kaldi", "mel_bins": 128, "sample_rate_hz": 44100}, "takes 16000: set it to 16000"),
    ({"front_end": "kaldi", "mel_bins": 128, "max_duration_s": 20.0}, "1998 hops, but hf_hub:gaunernst/"),
])  # fmt: skip
def test_an_audio_transformer_refuses_features_that_it_was_not_trained_on(changes, message, build):
    with pytest.raises(UserError, match=re.escape(message)):
        build("log_mel", HUB + AUDIOMAE, **changes)
