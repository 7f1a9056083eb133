"""Networks of timm and torchvision: they give what the library itself gives, and refuse what does not fit them."""

import re

import pytest
import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from pipeline.common.config import Backbone
from pipeline.common.errors import UserError
from pipeline.models.model import build_backbone
from pipeline.models.timm_networks import AUDIOMAE, HUB
from pipeline.models.weights import fit


def settings(name, weights="none", grid=1):
    return Backbone(name=name, weights=weights, sha256=None, min_matched=0.9, grid=grid)


@pytest.fixture
def build(features):
    def build(modality, name, grid=1, weights="none", **changes):
        torch.manual_seed(0)
        return build_backbone(modality, settings(name, weights, grid), features.model_copy(update=changes)).eval()

    return build


def filled(network, published):
    """The network with weights as a library publishes them."""
    return fit(network, published.state_dict(), "published", "")


@pytest.fixture
def frames():
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, 4, 3, 64, 64), dtype=torch.uint8)


# Families that lay out their features differently: (B, C, h, w), (B, h, w, C), tokens with a class token.
LARGE_HEAD = pytest.param("audio", "vgg11", marks=pytest.mark.slow)  # a hundred million weights to draw
FAMILIES = ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", [*FAMILIES, "mobilenetv3_small_050"])
@torch.no_grad()
def test_a_frame_network_gives_what_timm_pools_from_the_normalised_picture(name, build, frames):
    network = build("video", name, frames=4, frame_size_px=64)
    published = timm.create_model(name, **({"img_size": 64} if "224" in name else {})).eval()
    assert filled(network, published).missing == []
    stated = published.pretrained_cfg
    mean, std = (torch.tensor(stated[key]).view(3, 1, 1) for key in ("mean", "std"))
    pictures = (frames.flatten(0, 1) / 255 - mean) / std
    expected = published.forward_head(published.forward_features(pictures), pre_logits=True)
    torch.testing.assert_close(network(frames).flatten(0, 2), expected, atol=1e-4, rtol=1e-4)
    assert network.interface.takes == (4, 64, 64)
    assert network.interface.gives == (4, 1, expected.shape[1])


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_parts_of_a_picture_are_in_their_places(name, build):
    """What changes in one quarter changes that quarter's token the most."""
    network = build("video", name, grid=2, frames=4, frame_size_px=128)
    frames = torch.randint(0, 256, (2, 4, 3, 128, 128), dtype=torch.uint8)
    other = frames.clone()
    other[:, :, :, 64:, :64] = 255 - other[:, :, :, 64:, :64]  # the lower left one
    changed = (network(other) - network(frames)).norm(dim=-1)  # (clips, frames, parts)
    assert changed.shape == (2, 4, 4)
    assert (changed.argmax(dim=-1) == 2).all()


@torch.no_grad()
def test_a_vision_transformer_is_made_for_the_frames_size_when_it_starts_from_nothing(build, frames):
    network = build("video", "vit_tiny_patch16_224", frames=4, frame_size_px=64)
    assert network(frames).shape == (2, 4, 1, 192)


def test_a_vision_transformer_with_weights_refuses_other_sizes(build):
    with pytest.raises(UserError, match=r"frame_size_px is 64, but vit_tiny_patch16_224 with weights takes 224"):
        build("video", "vit_tiny_patch16_224", weights="pretrained")


@pytest.mark.parametrize(("name", "frames"), [pytest.param("r2plus1d_18", 16, marks=pytest.mark.slow), ("swin3d_t", 4)])
@torch.no_grad()
def test_a_clip_networks_tokens_average_to_what_torchvision_pools(name, frames, build):
    size = 64
    network = build("video", name, grid=2, frames=frames, frame_size_px=size)
    published = torchvision.models.get_model(name, weights=None).eval()
    assert filled(network, published).missing == []
    published.fc = published.head = torch.nn.Identity()
    clips = torch.randint(0, 256, (2, frames, 3, size, size), dtype=torch.uint8)
    stated = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (stated.mean, stated.std))
    tokens = network(clips)
    expected = published(((clips / 255 - mean) / std).transpose(1, 2))
    torch.testing.assert_close(tokens.mean(dim=(1, 2)), expected, atol=1e-4, rtol=1e-4)
    assert tokens.shape[1:] == network.interface.gives == (frames // network.interface.stride, 4, expected.shape[1])


@pytest.mark.parametrize(("name", "tokens"), [("s3d", (2, 49, 1024)), ("mvit_v2_s", (8, 49, 768))])
def test_every_clip_network_gives_tokens_of_the_shape_that_it_states(name, tokens, build):
    with torch.device("meta"):  # shapes alone: 64 GFLOPs of mvit_v2_s would take seconds
        network = build("video", name, grid=7, frames=16, frame_size_px=224)
        assert network(torch.zeros(1, 16, 3, 224, 224)).shape[1:] == network.interface.gives == tokens


@pytest.mark.slow
@torch.no_grad()
def test_mvit_computes_what_torchvision_computes(build):
    """Its class token, which is the last thing that its blocks make, from ours and from torchvision's own forward."""
    network = build("video", "mvit_v2_s", frames=16, frame_size_px=224)
    published = torchvision.models.get_model("mvit_v2_s", weights=None).eval()
    filled(network, published)
    published.head = torch.nn.Identity()
    seen = []
    network.network.norm.register_forward_hook(lambda module, given, made: seen.append(made[:, 0]))
    clips = torch.randint(0, 256, (1, 16, 3, 224, 224), dtype=torch.uint8)
    network(clips)
    expected = published((clips / 255 - 0.45).transpose(1, 2) / 0.225)
    torch.testing.assert_close(seen[0], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "given", "said"), [
    ("r2plus1d_18", {"frames": 12}, "frames is 12, but r2plus1d_18 takes a multiple of 8: set it to 16"),
    ("mvit_v2_s", {"frames": 8, "frame_size_px": 224}, "frames is 8, but mvit_v2_s takes 16"),
    ("mvit_v2_s", {"frames": 16, "frame_size_px": 112}, "frame_size_px is 112, but mvit_v2_s takes 224"),
    ("s3d", {"frames": 16, "frame_size_px": 16}, "s3d cannot be used with these settings: Given input size"),
    ("r2plus1d_18", {"frames": 16, "frame_size_px": 64, "grid": 7}, "7 x 7 parts of its map, which is 4 x 4"),
    ("resnet18", {"frame_size_px": 96, "grid": 4}, "4 x 4 parts of its map, which is 3 x 3"),
    ("vit_tiny_patch16_224", {"frame_size_px": 100}, "frame_size_px is 100, but vit_tiny_patch16_224 takes a multiple "
     "of 16: set it to 112"),
])  # fmt: skip
def test_a_network_for_frames_refuses_what_does_not_fit(name, given, said, build):
    with pytest.raises(UserError, match=re.escape(said)):
        build("video", name, **given)


@pytest.mark.parametrize(("name", "given", "said"), [
    ("vit_tiny_patch16_224", {"mel_bins": 100}, "mel_bins is 100, but vit_tiny_patch16_224 takes a multiple of 16: set "
     "it to 112"),
    ("resnet18", {"grid": 3}, "which is 2 x 18"),
    ("r2plus1d_18", {}, "r2plus1d_18 is a network for frames; for audio take small, or one of timm's"),
])  # fmt: skip
def test_a_network_for_sound_refuses_what_does_not_fit(name, given, said, build):
    with pytest.raises(UserError, match=re.escape(said)):
        build("audio", name, **given)


@pytest.mark.parametrize(("modality", "name", "said"), [
    ("video", "r2plus1d_81", "there is no network r2plus1d_81; close to it: r2plus1d_18"),
    ("audio", "resnet18_", "close to it: resnet18"),
    ("video", "resnet18.nobody", "no weights nobody of resnet18; it has resnet18.a1_in1k"),
    ("video", "resnet18.", "no weights  of resnet18; it has resnet18.a1_in1k"),
    ("video", "timm/resnet18.a1_in1k", "one of Hugging Face's is named hf_hub:owner/name"),
])  # fmt: skip
def test_a_wrong_name_is_refused_with_the_right_ones(modality, name, said, build):
    with pytest.raises(UserError, match=re.escape(said)):
        build(modality, name)


def test_what_timm_cannot_make_is_said_in_a_sentence(build, monkeypatch):
    def fail(*_, **__):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match=r"timm cannot make hf_hub:somebody/net with \{\}: no network"):
        build("video", "hf_hub:somebody/net")


@pytest.mark.parametrize(("modality", "name", "grid"), [
    ("video", "levit_128", 2),  # its features are in no place that we know
    ("audio", "mixer_s16_224", 1),
    ("video", "caformer_s18", 1),  # timm does not say which of its layers come first
    ("video", "selecsls60", 2),  # gives another width than it states
])  # fmt: skip
def test_a_network_that_does_not_work_like_the_others_is_refused_when_it_is_built(modality, name, grid, build):
    with pytest.raises(UserError, match=f"{name} cannot be used with these settings: "):
        build(modality, name, grid)


@torch.no_grad()
def test_a_network_whose_layers_have_two_names_is_tried_without_harm(build, frames):
    network = build("video", "coat_tiny", frames=4, frame_size_px=224)
    assert all(not tensor.is_meta for tensor in network.state_dict().values())
    assert network(torch.zeros(1, 4, 3, 224, 224)).shape[1:] == network.interface.gives


def test_a_network_that_cannot_recompute_says_so(build):
    with torch.device("meta"):
        network = build("video", "vgg11")
    with pytest.raises(UserError, match="timm cannot recompute vgg11: set gradient_checkpointing to false"):
        network.recompute()


@pytest.mark.parametrize(("modality", "name"), [LARGE_HEAD, ("audio", "convnext_atto"), ("audio", "resnet18")])
def test_what_is_trained_has_a_gradient(modality, name, build, features):
    """Several processes would wait for one that never comes."""
    network = build(modality, name).train()
    network(torch.randn(2, features.mel_bins, features.max_mel_frames)).sum().backward()
    assert [key for key, value in network.named_parameters() if value.requires_grad and value.grad is None] == []
    assert sum(value.requires_grad for value in network.parameters()) > 10


def test_the_small_network_has_one_token_a_moment(build):
    with pytest.raises(UserError, match=r"video\.grid is 2, but the small network takes 1"):
        build("video", "small", grid=2)


@torch.no_grad()
def test_a_picture_network_hears_the_sum_of_its_colour_channels(build, features):
    network = build("audio", "resnet18.tv_in1k")
    published = timm.create_model("resnet18").eval()
    report = filled(network, published)
    assert list(report.reshaped) == ["conv1.weight"]
    assert report.unexpected == ["fc.bias", "fc.weight"]
    log_mel = torch.randn(2, features.mel_bins, features.max_mel_frames) * 20 - 40
    padded = torch.nn.functional.pad(log_mel, (0, -features.max_mel_frames % 32), value=-100.0)
    picture = ((padded + 40) / 20).unsqueeze(1).expand(-1, 3, -1, -1)
    expected = published.forward_features(picture).mean(dim=2).transpose(1, 2)
    tokens = network(log_mel)
    torch.testing.assert_close(tokens.squeeze(2), expected, atol=1e-4, rtol=1e-4)
    assert tokens.shape[1:] == network.interface.gives


@torch.no_grad()
def test_a_network_with_two_first_convolutions_hears_with_both(build):
    network = build("audio", "mobileone_s0")
    report = filled(network, timm.create_model("mobileone_s0"))
    assert report.missing == []
    assert {"stem.conv_kxk.0.conv.weight", "stem.conv_scale.conv.weight"} <= report.reshaped.keys()


@pytest.mark.parametrize(("modality", "name", "given", "offset"), [
    ("audio", "small", {}, 0.0),
    ("audio", "resnet18", {}, 0.0),  # convolutions padded on both sides centre a token on the first of its hops
    ("audio", "convnext_atto", {}, 15.5),  # patches, on the middle of them
    ("audio", "swin_tiny_patch4_window7_224", {}, 15.5),
    ("audio", "vgg11", {}, 15.5),  # by hand: five poolings of two, (1 + 2 + 4 + 8 + 16) / 2
    ("audio", "tf_efficientnet_b0", {}, 31.0),  # five convolutions with one more column of padding on the right
    ("audio", "resnet18d", {}, 7.0),  # 0 for its blocks, 14 for its shortcuts
    ("audio", "vit_tiny_patch16_224", {}, 7.5),
    ("audio", HUB + AUDIOMAE, {"front_end": "kaldi", "mel_bins": 128}, 7.5),
    ("video", "resnet18", {"frame_size_px": 64}, 0.0),
    ("video", "r2plus1d_18", {"frames": 16, "frame_size_px": 64}, 0.0),
    ("video", "s3d", {"frames": 16, "frame_size_px": 64}, 2.0),  # its last pooling is not padded
    ("video", "swin3d_t", {"frames": 4, "frame_size_px": 64}, 0.5),
    ("video", "mvit_v2_s", {"frames": 16, "frame_size_px": 224}, 0.0),
])  # fmt: skip
def test_a_network_states_where_its_tokens_are_centred(modality, name, given, offset, build):
    with torch.device("meta"):
        assert build(modality, name, **given).interface.offset == offset


@pytest.mark.parametrize(
    "name",
    ["small", "vit_tiny_patch16_224", "resnet18", "tf_efficientnet_b0", pytest.param("vgg11", marks=pytest.mark.slow)],
)
def test_a_token_looks_at_where_it_is_centred(name, build, features):
    """The centre of what a token in the midst of the sound depends on, by the gradient."""
    network = build("audio", name)
    log_mel = torch.randn(1, features.mel_bins, features.max_mel_frames) * 20 - 40
    log_mel.requires_grad_()
    interface, token = network.interface, network.interface.gives[0] // 2
    if name.startswith("vit"):  # before its tokens attend to each other
        network.network.blocks = torch.nn.Identity()
    (gradient,) = torch.autograd.grad(network(log_mel)[0, token].sum(), log_mel)
    weight = gradient.square().sum(dim=(0, 1))
    centre = (weight * torch.arange(len(weight))).sum() / weight.sum()
    assert centre == pytest.approx(interface.stride * token + interface.offset, abs=interface.stride / 4)


def test_tensors_that_cannot_be_made_to_fit_are_refused_with_a_sentence(build):
    network = build("video", "vit_tiny_patch16_224", frames=4, frame_size_px=64)
    with pytest.raises(UserError, match=r"w\.pth is not of this network"):
        fit(network, {"pos_embed": torch.zeros(7), "cls_token": torch.zeros(1, 1, 192)}, "w.pth", "")


@pytest.mark.slow
@torch.no_grad()
def test_an_audio_transformer_keeps_the_positions_of_the_first_seconds(build):
    network = build("audio", HUB + AUDIOMAE, front_end="kaldi", mel_bins=128)
    arguments = {"img_size": (1024, 128), "in_chans": 1, "num_classes": 527, "global_pool": "avg"}
    published = timm.create_model("vit_base_patch16_224", **arguments).eval()
    report = filled(network, published)
    assert (report.missing, report.unexpected) == ([], ["head.bias", "head.weight"])
    assert report.reshaped == {"pos_embed": "(1, 513, 768) -> (1, 281, 768)"}
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


@pytest.mark.parametrize(("given", "said"), [
    ({}, "front_end is librosa, but hf_hub:gaunernst/vit_base_patch16_1024_128.audiomae_as2m_ft_as20k takes kaldi"),
    ({"front_end": "kaldi", "mel_bins": 64}, "mel_bins is 64, but"),
    ({"front_end": "kaldi", "mel_bins": 128, "hop_length": 320}, "hop_length is 320, but"),
    ({"front_end": "kaldi", "mel_bins": 128, "sample_rate_hz": 44100}, "takes 16000: set it to 16000"),
    ({"front_end": "kaldi", "mel_bins": 128, "max_duration_s": 20.0}, "1998 hops, but hf_hub:gaunernst/"),
])  # fmt: skip
def test_an_audio_transformer_refuses_what_it_was_not_trained_on(given, said, build):
    with pytest.raises(UserError, match=re.escape(said)):
        build("audio", HUB + AUDIOMAE, **given)


NETWORKS = [
    ("video", "resnet18", {"frames": 8, "frame_size_px": 64}),
    ("video", "vit_tiny_patch16_224", {"frames": 8, "frame_size_px": 64}),
    pytest.param("video", "r2plus1d_18", {"frames": 8, "frame_size_px": 64}, marks=pytest.mark.slow),
    ("video", "small", {}),
    ("audio", "resnet18", {}),
    ("audio", "small", {}),
]


@pytest.mark.parametrize(("modality", "name", "given"), NETWORKS)
def test_the_layers_are_all_parameters_once_from_the_input_to_the_output(modality, name, given, build):
    network = build(modality, name, **given)
    layers = network.layers()
    assert len(layers) >= 3
    parameters = [parameter for layer in layers for parameter in layer]
    assert len(parameters) == len(set(parameters)) == len(list(network.parameters()))
    first = next(parameter for parameter in network.parameters() if parameter.dim() >= 4)  # its kernels see the input
    assert any(first is parameter for parameter in layers[0])


@pytest.mark.parametrize(("modality", "name", "given"), NETWORKS)
def test_recomputing_costs_work_and_gives_the_same_gradients(modality, name, given, build, features):
    shapes = {"video": (1, 8, 3, 64, 64), "audio": (1, features.mel_bins, features.max_mel_frames)}
    if name == "small":
        shapes["video"] = (1, features.frames, 3, 64, 64)
    values = torch.rand(shapes[modality])
    gradients, work = [], []
    for again in (False, True):
        network = build(modality, name, **given).train()
        if again:
            network.recompute()
        with FlopCounterMode(display=False) as counter:
            network(values).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        work.append(counter.get_total_flops())
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, atol=1e-3, rtol=1e-3)
    assert work[1] > 1.2 * work[0]
