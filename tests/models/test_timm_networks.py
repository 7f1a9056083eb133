"""Networks of timm on frames: they give what timm itself gives, and refuse settings that do not fit them."""

import re

import pytest
import timm
import torch

from pipeline.common.errors import UserError

# Families that lay out their features differently: (B, C, h, w), (B, h, w, C), tokens with a class token.
FAMILIES = ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]


@pytest.fixture
def frames():
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, 4, 3, 64, 64), dtype=torch.uint8)


@pytest.mark.parametrize("name", [*FAMILIES, "mobilenetv3_small_050"])
@torch.no_grad()
def test_a_frame_network_gives_what_timm_pools_from_the_normalised_picture(name, build, take_weights, frames):
    network = build("frames", name, frames=4, frame_size_px=64)
    published = timm.create_model(name, **({"img_size": 64} if "224" in name else {})).eval()
    assert take_weights(network, published).missing == []
    stated = published.pretrained_cfg
    mean, std = (torch.tensor(stated[key]).view(3, 1, 1) for key in ("mean", "std"))
    pictures = (frames.flatten(0, 1) / 255 - mean) / std
    expected = published.forward_head(published.forward_features(pictures), pre_logits=True)
    torch.testing.assert_close(network(frames).flatten(0, 2), expected, atol=1e-4, rtol=1e-4)
    assert network.interface.takes == (4, 64, 64)
    assert network.interface.gives == (4, 1, expected.shape[1])


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_change_in_one_quarter_of_a_picture_changes_the_token_of_that_quarter_most(name, build):
    network = build("frames", name, grid=2, frames=4, frame_size_px=128)
    frames = torch.randint(0, 256, (2, 4, 3, 128, 128), dtype=torch.uint8)
    other = frames.clone()
    other[:, :, :, 64:, :64] = 255 - other[:, :, :, 64:, :64]  # the lower left quarter
    changed = (network(other) - network(frames)).norm(dim=-1)  # (clips, frames, parts)
    assert changed.shape == (2, 4, 4)
    assert (changed.argmax(dim=-1) == 2).all()


@torch.no_grad()
def test_a_vision_transformer_without_weights_is_made_for_the_size_of_the_frames(build, frames):
    network = build("frames", "vit_tiny_patch16_224", frames=4, frame_size_px=64)
    assert network(frames).shape == (2, 4, 1, 192)


def test_a_vision_transformer_with_weights_refuses_other_sizes(build):
    with pytest.raises(UserError, match=r"frame_size_px is 64, but vit_tiny_patch16_224 with weights takes 224"):
        build("frames", "vit_tiny_patch16_224", weights="pretrained")


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("resnet18", {"frame_size_px": 96, "grid": 4}, "4 x 4 parts of its map, which is 3 x 3"),
    ("vit_tiny_patch16_224", {"frame_size_px": 100}, "frame_size_px is 100, but vit_tiny_patch16_224 takes a multiple "
     "of 16: set it to 112"),
])  # fmt: skip
def test_a_frame_network_refuses_settings_that_do_not_fit(name, changes, message, build):
    with pytest.raises(UserError, match=re.escape(message)):
        build("frames", name, **changes)


def test_a_failure_of_timm_is_reported_in_one_sentence(build, monkeypatch):
    def fail(*_, **__):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match=r"timm cannot make hf_hub:somebody/net with \{\}: no network"):
        build("frames", "hf_hub:somebody/net")


def test_a_network_that_cannot_recompute_is_refused(build):
    with torch.device("meta"):
        network = build("frames", "vgg11")
    with pytest.raises(UserError, match="timm cannot recompute vgg11: set gradient_checkpointing to false"):
        network.recompute()
