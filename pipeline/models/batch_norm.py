"""BatchNorm over groups of clips.

In training, BatchNorm's output for a clip depends on the clips that it is computed with. If these were all clips of a
process, the number of processes and of micro-batches would change what is learnt. So a network with BatchNorm takes a
fixed number of successive clips at a time. In evaluation the statistics are fixed, and clips do not depend on others.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that keep running statistics."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.track_running_stats]


def run_in_groups(network: nn.Module, clips: Tensor, size: int) -> Tensor:
    """`network(clips)`, where BatchNorm's statistics are those of each group of `size` successive clips.

    The running statistics become the mean over the groups. A network that computes no statistics takes all clips at
    once.
    """
    norms = [norm for norm in batch_norms(network) if norm.training]
    if not norms:
        values: Tensor = network(clips)
        return values
    tokens = []
    for number, group in enumerate(torch.split(clips, size), start=1):
        for norm in norms:
            norm.momentum = 1 / number  # the running statistics are the mean over the groups so far
        tokens.append(network(group))
    return torch.cat(tokens)
