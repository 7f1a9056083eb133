"""What every backbone must do, whichever library it is from."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

NETWORKS = [
    ("frames", "resnet18", {"frames": 8, "frame_size_px": 64}),
    ("frames", "vit_tiny_patch16_224", {"frames": 8, "frame_size_px": 64}),
    pytest.param("frames", "r2plus1d_18", {"frames": 8, "frame_size_px": 64}, marks=pytest.mark.slow),
    ("frames", "small", {}),
    ("log_mel", "resnet18", {}),
    ("log_mel", "small", {}),
]


@pytest.mark.parametrize(("takes", "name", "changes"), NETWORKS)
def test_the_layers_hold_every_parameter_once_from_the_input_to_the_output(takes, name, changes, build):
    network = build(takes, name, **changes)
    layers = network.layers()
    assert len(layers) >= 3
    parameters = [parameter for layer in layers for parameter in layer]
    assert len(parameters) == len(set(parameters)) == len(list(network.parameters()))
    first = next(parameter for parameter in network.parameters() if parameter.dim() >= 4)  # its kernels see the input
    assert any(first is parameter for parameter in layers[0])


@pytest.mark.parametrize(("takes", "name", "changes"), NETWORKS)
def test_recomputing_costs_work_and_gives_the_same_gradients(takes, name, changes, build, features):
    shapes = {"frames": (1, 8, 3, 64, 64), "log_mel": (1, features.mel_bins, features.max_mel_frames)}
    if name == "small":
        shapes["frames"] = (1, features.frames, 3, 64, 64)
    values = torch.rand(shapes[takes])
    gradients, work = [], []
    for recomputes in (False, True):
        network = build(takes, name, **changes).train()
        if recomputes:
            network.recompute()
        with FlopCounterMode(display=False) as counter:
            network(values).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        work.append(counter.get_total_flops())
    for stored, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(stored, recomputed, atol=1e-3, rtol=1e-3)
    assert work[1] > 1.2 * work[0]


@pytest.mark.parametrize(
    "name",
    ["small", "vit_tiny_patch16_224", "resnet18", "tf_efficientnet_b0", pytest.param("vgg11", marks=pytest.mark.slow)],
)
def test_a_token_looks_at_the_hop_on_which_it_is_centred(name, build, features):
    """The gradient shows where the token in the middle of the sound looks."""
    network = build("log_mel", name)
    log_mel = torch.randn(1, features.mel_bins, features.max_mel_frames) * 20 - 40
    log_mel.requires_grad_()
    interface, token = network.interface, network.interface.gives[0] // 2
    if name.startswith("vit"):  # before its tokens attend to each other
        network.network.blocks = torch.nn.Identity()
    (gradient,) = torch.autograd.grad(network(log_mel)[0, token].sum(), log_mel)
    weight = gradient.square().sum(dim=(0, 1))
    centre = (weight * torch.arange(len(weight))).sum() / weight.sum()
    assert centre == pytest.approx(interface.stride * token + interface.offset, abs=interface.stride / 4)
