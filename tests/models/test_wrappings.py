"""What a network is wrapped in to train it changes none of its outputs, in any family that recipes and docs name.

PyTorch's own conversion to SyncBatchNorm drops the activation that timm's BatchNorm layers have inside, so that several
GPUs would train another network than the one that is evaluated. Nothing here uses it; this holds for what is used.
"""

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from pipeline.models.batch_norm import batch_norms
from pipeline.training.optimization import moving_average
from pipeline.training.setup import to_channels_last

FRAMES = {"frames": 2, "frame_size_px": 64}
FAMILIES = {
    "small": FRAMES,
    "tf_efficientnet_lite0": FRAMES,
    "resnet18": FRAMES,
    "efficientnet_b0": FRAMES,
    "mobilenetv3_small_050": FRAMES,
    "densenet121": FRAMES,
    "convnext_atto": FRAMES,
    "vit_tiny_patch16_224": FRAMES,
    "r2plus1d_18": {"frames": 16, "frame_size_px": 32},
    "swin3d_t": {"frames": 4, "frame_size_px": 64},
}


@pytest.fixture(autouse=True)
def process_group() -> Iterator[None]:
    """A group of this process alone, for DistributedDataParallel."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def in_channels_last(network, training):
    to_channels_last(network)
    return network


def as_average(network, training):
    average = moving_average(network, training)
    average.update_parameters(network)
    return average


def prepared(network, training):
    return Accelerator(cpu=True).prepare_model(network)


def distributed_data_parallel(network, training):
    return DistributedDataParallel(network)


def recomputed(network, training):
    network.recompute()
    return network


def captured(network, training):
    """As `torch.compile` captures it, without the code that it would generate."""
    torch.compiler.reset()  # what other tests compiled slows the capture down
    network.compile(backend="eager")
    return network


def compiled(network, training):
    torch.compiler.reset()
    network.compile()
    return network


WRAPPINGS = [in_channels_last, as_average, prepared, distributed_data_parallel, recomputed]
SLOW_WRAPPINGS = [
    *((name, captured) for name in FAMILIES),
    *((name, compiled) for name in ("small", "tf_efficientnet_lite0", "resnet18")),
]


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        *itertools.product(FAMILIES, WRAPPINGS),
        *(pytest.param(*slow, marks=pytest.mark.slow) for slow in SLOW_WRAPPINGS),
    ],
)
def test_a_wrapped_network_computes_what_the_network_computes(name, wrap, build, config):
    network = build("frames", name, **FAMILIES[name])
    for norm in batch_norms(network):  # as after some training
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    frames = torch.randint(0, 256, (2, *FAMILIES[name].values(), FAMILIES[name]["frame_size_px"]), dtype=torch.uint8)
    frames = frames.unsqueeze(2).expand(-1, -1, 3, -1, -1).contiguous()
    with torch.no_grad():
        expected = network(frames)
    wrapped = wrap(copy.deepcopy(network), config.recipe.training.model_copy(update={"ema_decay": 0.9}))
    scale = float(expected.abs().max())
    assert scale > 0
    torch.testing.assert_close(wrapped(frames) / scale, expected / scale, atol=1e-4, rtol=0)
