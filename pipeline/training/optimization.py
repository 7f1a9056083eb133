"""The optimiser: learning rates by step and by part of the network, weight decay, the moving average."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.common.recipe import TrainingSettings
from pipeline.models.model import GroupEmotionModel

SCALE = "rate_scale"


def build_optimizer(model: GroupEmotionModel, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with the groups of `parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(model, settings), lr=settings.learning_rate)


def parameter_groups(model: GroupEmotionModel, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Group the trained parameters by learning rate and weight decay; `rate_scale` is a factor of the learning rate.

    Backbones, fusion and head have one factor each. The last layer of a backbone (`layers()`) has its full rate, and
    each layer before it has `layer_decay` times the rate of the next one. Matrices and kernels decay; biases, norms,
    tokens and positions do not.
    """
    scales = settings.rate_scales
    factors: dict[nn.Parameter, float] = {}
    for backbone in model.backbones().values():
        layers = [layer for layer in backbone.layers() if layer]
        for depth, layer in enumerate(layers):
            factor = scales.backbones * settings.layer_decay ** (len(layers) - 1 - depth)
            factors |= dict.fromkeys(layer, factor)
    factors |= dict.fromkeys(model.fusion.heads.parameters(), scales.head)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = factors.get(parameter, scales.fusion)
            decay = settings.weight_decay if name.endswith("weight") and parameter.dim() >= 2 else 0.0
            new_group = {"params": [], "weight_decay": decay, SCALE: factor}
            groups.setdefault((factor, decay), new_group)["params"].append(parameter)
    return list(groups.values())


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """The learning rate of step `step` (from 0) of `steps`: a linear warm-up, then a cosine to 0 at the last step."""
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup + 1) / max(1, steps - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of each parameter group to `value` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = value * group[SCALE]


def moving_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of the weights and buffers, to be updated after each step; None for decay 0."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
