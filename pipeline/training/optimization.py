"""The optimiser: learning rates by step and by part of the network, weight decay, the moving average."""

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel

from pipeline.common.recipe import TrainingSettings
from pipeline.training.objective import Objective

SCALE = "rate_scale"
Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(objective: Objective, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with the groups of `parameter_groups`; on a GPU all of its arithmetic in one kernel."""
    is_on_gpu = objective.class_weights.is_cuda
    return torch.optim.AdamW(parameter_groups(objective, settings), lr=settings.learning_rate, fused=is_on_gpu)


def parameter_groups(objective: Objective, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Group the trained parameters by learning rate and weight decay; `rate_scale` is a factor of the learning rate.

    Backbones, fusion and heads have one factor each. The last layer of a backbone (`layers()`) has its full rate, and
    each layer before it has `layer_decay` times the rate of the next one. Matrices and kernels decay; biases, norms,
    tokens and positions do not.
    """
    scales = settings.rate_scales
    factors: dict[nn.Parameter, float] = {}
    for backbone in objective.model.backbones().values():
        layers = [layer for layer in backbone.layers() if layer]
        for depth, layer in enumerate(layers):
            factor = scales.backbones * settings.layer_decay ** (len(layers) - 1 - depth)
            factors |= dict.fromkeys(layer, factor)
    for heads in (objective.model.fusion.heads, objective.heads):
        factors |= dict.fromkeys(heads.parameters(), scales.head)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            factor = factors.get(parameter, scales.fusion)
            decay = settings.weight_decay if name.endswith("weight") and parameter.dim() >= 2 else 0.0
            new_group = {"params": [], "weight_decay": decay, SCALE: factor}
            groups.setdefault((factor, decay), new_group)["params"].append(parameter)
    return list(groups.values())


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """The learning rate of step `step` (from 0) of `steps`: a linear warm-up, then a cosine that ends after the last.

    It ends at `learning_rate_floor` times the highest rate.
    """
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return settings.learning_rate * (settings.learning_rate_floor + (1 - settings.learning_rate_floor) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of each parameter group to `value` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = value * group[SCALE]


def clip_gradients(objective: Objective, largest: float, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Scale the model's gradient down to the norm `largest`; the streams' own heads have no part in it.

    Returns the norm of all gradients before that, those of the heads too, and the norm of each network's gradient
    (streams,).
    """
    accelerator.unscale_gradients()
    model = objective.model
    parts = [*model.backbones().values(), model.fusion, objective.heads]
    norms = torch.stack([_gradient_norm(part).to(accelerator.device) for part in parts])
    clip_grads_with_norm_(model.parameters(), largest, norms[:-1].norm())
    return norms.norm(), norms[:-2]


def _gradient_norm(module: nn.Module) -> Tensor:
    return get_total_norm([each.grad for each in module.parameters() if each.grad is not None])


def moving_average(model: nn.Module, settings: TrainingSettings) -> AveragedModel | None:
    """An exponential moving average of the weights and buffers, to be updated after each step; None for decay 0.

    It begins as a copy of the weights after the first step. With `ema_warmup`, the decay of its n-th update is at most
    (1 + n) / (10 + n).
    """
    highest = settings.ema_decay
    if not highest:
        return None

    def update(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        decay = min(highest, (1 + int(count)) / (10 + int(count))) if settings.ema_warmup else highest
        if averages[0].is_floating_point():  # PyTorch calls this for each type; the others are counters
            torch._foreach_lerp_(averages, values, 1 - decay)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
