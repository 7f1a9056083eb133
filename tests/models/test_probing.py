"""A network is tried before it is used: its shapes, its layers, the centres of its tokens, its gradients."""

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.models.audio_networks import AUDIOMAE
from pipeline.models.backbone import HUB


@pytest.mark.parametrize(("takes", "name", "grid"), [
    ("frames", "levit_128", 2),  # its features are laid out in an unknown way
    ("log_mel", "mixer_s16_224", 1),
    ("frames", "caformer_s18", 1),  # timm does not say which of its layers come first
    ("frames", "selecsls60", 2),  # gives another width than it states
])  # fmt: skip
def test_a_network_that_does_not_work_like_the_others_is_refused_when_it_is_built(takes, name, grid, build):
    with pytest.raises(UserError, match=f"{name} cannot be used with these settings: "):
        build(takes, name, grid)


@torch.no_grad()
def test_a_network_whose_layers_have_two_names_is_tried_without_harm(build):
    network = build("frames", "coat_tiny", frames=4, frame_size_px=224)
    assert all(not tensor.is_meta for tensor in network.state_dict().values())
    assert network(torch.zeros(1, 4, 3, 224, 224)).shape[1:] == network.interface.gives


LARGE_HEAD = pytest.param("log_mel", "vgg11", marks=pytest.mark.slow)  # it draws a hundred million weights


@pytest.mark.parametrize(("takes", "name"), [LARGE_HEAD, ("log_mel", "convnext_atto"), ("log_mel", "resnet18")])
def test_every_parameter_that_is_trained_has_a_gradient(takes, name, build, features):
    """Several processes would wait for a gradient that never comes."""
    network = build(takes, name).train()
    network(torch.randn(2, features.mel_bins, features.max_mel_frames)).sum().backward()
    assert [key for key, value in network.named_parameters() if value.requires_grad and value.grad is None] == []
    assert sum(value.requires_grad for value in network.parameters()) > 10


@pytest.mark.parametrize(("takes", "name", "changes", "offset"), [
    ("log_mel", "small", {}, 7.0),  # three poolings of pairs
    ("log_mel", "resnet18", {}, 0.0),  # convolutions padded on both sides centre a token on the first of its hops
    ("log_mel", "convnext_atto", {}, 15.5),  # patches centre it on their middle
    ("log_mel", "swin_tiny_patch4_window7_224", {}, 15.5),
    ("log_mel", "vgg11", {}, 15.5),  # by hand: five poolings of two, (1 + 2 + 4 + 8 + 16) / 2
    ("log_mel", "tf_efficientnet_b0", {}, 31.0),  # five convolutions with one more column of padding on the right
    ("log_mel", "resnet18d", {}, 7.0),  # 0 for its blocks, 14 for its shortcuts
    ("log_mel", "pvt_v2_b0", {}, pytest.approx(16 / 3)),  # 0 for its tokens; of 3 layers, the last 2 shrink keys by 2
    ("log_mel", "vit_tiny_patch16_224", {}, 7.5),
    ("log_mel", HUB + AUDIOMAE, {"front_end": "kaldi", "mel_bins": 128}, 7.5),
    ("frames", "resnet18", {"frame_size_px": 64}, 0.0),
    ("frames", "r2plus1d_18", {"frames": 16, "frame_size_px": 64}, 0.0),
    ("frames", "s3d", {"frames": 16, "frame_size_px": 64}, 2.0),  # its last pooling is not padded
    ("frames", "swin3d_t", {"frames": 4, "frame_size_px": 64}, 0.5),
    ("frames", "mvit_v2_s", {"frames": 16, "frame_size_px": 224}, 0.0),
])  # fmt: skip
def test_a_network_states_where_its_tokens_are_centred(takes, name, changes, offset, build):
    with torch.device("meta"):
        assert build(takes, name, **changes).interface.offset == offset
