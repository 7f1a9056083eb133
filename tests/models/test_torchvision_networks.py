"""Networks of torchvision on clips: they give what torchvision itself gives, and refuse settings that do not fit."""

import re

import pytest
import torch
import torchvision

from pipeline.common.errors import UserError


@pytest.mark.parametrize(("name", "frames"), [pytest.param("r2plus1d_18", 16, marks=pytest.mark.slow), ("swin3d_t", 4)])
@torch.no_grad()
def test_the_mean_of_a_clip_networks_tokens_is_what_torchvision_pools(name, frames, build, take_weights):
    size = 64
    network = build("frames", name, grid=2, frames=frames, frame_size_px=size)
    published = torchvision.models.get_model(name, weights=None).eval()
    assert take_weights(network, published).missing == []
    published.fc = published.head = torch.nn.Identity()
    clips = torch.randint(0, 256, (2, frames, 3, size, size), dtype=torch.uint8)
    stated = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (stated.mean, stated.std))
    tokens = network(clips)
    expected = published(((clips / 255 - mean) / std).transpose(1, 2))
    torch.testing.assert_close(tokens.mean(dim=(1, 2)), expected, atol=1e-4, rtol=1e-4)
    assert tokens.shape[1:] == network.interface.gives == (frames // network.interface.stride, 4, expected.shape[1])


@pytest.mark.parametrize(("name", "tokens"), [("s3d", (2, 49, 1024)), ("mvit_v2_s", (8, 49, 768))])
def test_a_clip_network_gives_tokens_of_the_shape_that_it_states(name, tokens, build):
    with torch.device("meta"):  # shapes alone: 64 GFLOPs of mvit_v2_s would take seconds
        network = build("frames", name, grid=7, frames=16, frame_size_px=224)
        assert network(torch.zeros(1, 16, 3, 224, 224)).shape[1:] == network.interface.gives == tokens


@pytest.mark.slow
@torch.no_grad()
def test_mvit_computes_what_torchvision_computes(build, take_weights):
    """The class token, which the blocks compute last, is the same from this network and from torchvision's forward."""
    network = build("frames", "mvit_v2_s", frames=16, frame_size_px=224)
    published = torchvision.models.get_model("mvit_v2_s", weights=None).eval()
    take_weights(network, published)
    published.head = torch.nn.Identity()
    class_tokens = []
    network.network.norm.register_forward_hook(lambda module, inputs, output: class_tokens.append(output[:, 0]))
    clips = torch.randint(0, 256, (1, 16, 3, 224, 224), dtype=torch.uint8)
    network(clips)
    expected = published((clips / 255 - 0.45).transpose(1, 2) / 0.225)
    torch.testing.assert_close(class_tokens[0], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("r2plus1d_18", {"frames": 12}, "the stream's frames) is 12, but r2plus1d_18 takes a multiple of 8: set it to 16"),
    ("mvit_v2_s", {"frames": 8, "frame_size_px": 224}, "the stream's frames) is 8, but mvit_v2_s takes 16"),
    ("mvit_v2_s", {"frames": 16, "frame_size_px": 112}, "frame_size_px is 112, but mvit_v2_s takes 224"),
    ("s3d", {"frames": 16, "frame_size_px": 16}, "s3d cannot be used with these settings: Given input size"),
    ("r2plus1d_18", {"frames": 16, "frame_size_px": 64, "grid": 7}, "7 x 7 parts of its map, which is 4 x 4"),
])  # fmt: skip
def test_a_clip_network_refuses_settings_that_do_not_fit(name, changes, message, build):
    with pytest.raises(UserError, match=re.escape(message)):
        build("frames", name, **changes)
