import math

import pytest
import torch
from accelerate import Accelerator
from short_trainings import with_stream

from pipeline.models.model import GroupEmotionModel
from pipeline.training.objective import Objective
from pipeline.training.optimization import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_the_learning_rate_rises_then_falls_to_its_floor_behind_the_last_step(config, floor):
    changes = {"warmup": 0.1, "learning_rate": 2.0, "learning_rate_floor": floor}
    settings = config.recipe.training.model_copy(update=changes)
    rates = [learning_rate(step, 100, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] > rates[100] == pytest.approx(2 * floor, abs=1e-9), "the last step still learns"


@pytest.fixture
def rated(config):
    """The learning rate and the weight decay of each parameter, at a learning rate of 1."""
    scales = config.recipe.training.rate_scales.model_copy(update={"backbones": 0.1, "fusion": 2.0, "head": 10.0})
    settings = config.recipe.training.model_copy(update={"rate_scales": scales, "layer_decay": 0.5})
    objective = objective_of(config, config.recipe.model)
    optimizer = build_optimizer(objective, settings)
    set_learning_rate(optimizer, 1.0)
    rates = {p: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    named = {**dict(objective.model.named_parameters()), "own head": objective.heads["scene"].weight}
    return {name: rates[parameter] for name, parameter in named.items()}


def objective_of(config, model_settings):
    model = GroupEmotionModel(model_settings, config.recipe.features, config.dataset.classes)
    return Objective(model, config.recipe.training, torch.ones(len(model.labels)))


def test_every_parameter_is_trained_at_the_rate_of_its_part(rated):
    assert rated["fusion.heads.0.2.weight"][0] == rated["own head"][0] == 10.0
    assert rated["fusion.layers.0.blocks.scene.attention.in_proj_weight"][0] == 2.0
    assert rated["fusion.entrances.scene.summary"][0] == 2.0
    assert rated["networks.scene.network.3.0.weight"][0] == 0.1


def test_a_backbones_early_layers_learn_more_slowly(rated):
    rates = [rated[f"networks.scene.network.{depth}.0.weight"][0] for depth in range(4)]
    assert rates == pytest.approx([0.1 / 8, 0.1 / 4, 0.1 / 2, 0.1])


def test_only_matrices_and_kernels_decay(rated, config):
    decay = config.recipe.training.weight_decay
    assert rated["fusion.heads.0.2.weight"][1] == rated["networks.scene.network.0.0.weight"][1] == decay
    assert (
        rated["fusion.heads.0.2.bias"][1]
        == rated["fusion.entrances.scene.summary"][1]
        == rated["fusion.entrances.sound.norm.weight"][1]
        == 0.0
    )


def test_tokens_and_positions_of_a_transformer_do_not_decay(config):
    settings = with_stream(config, "scene", network="vit_tiny_patch16_224", grid=2).recipe.model
    objective = objective_of(config, settings)
    groups = parameter_groups(objective, config.recipe.training)
    decayed = {parameter for group in groups for parameter in group["params"] if group["weight_decay"]}
    named = dict(objective.model.named_parameters())
    network = "networks.scene.network"
    for name in (f"{network}.pos_embed", f"{network}.cls_token", "fusion.entrances.scene.places"):
        assert named[name].dim() >= 2
        assert named[name] not in decayed
    assert named[f"{network}.blocks.0.attn.qkv.weight"] in decayed


def test_no_parameter_is_left_out(config):
    objective = objective_of(config, config.recipe.model)
    optimizer = build_optimizer(objective, config.recipe.training)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(objective.parameters()))
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in trained)


def gradient_norm(module):
    return torch.cat([parameter.grad.flatten().double() for parameter in module.parameters()]).norm().item()


def test_the_gradient_of_the_model_is_clipped_to_a_norm_and_that_of_the_streams_own_heads_is_not(config, batch):
    objective = objective_of(config, config.recipe.model)
    objective(batch).total.backward()
    model = objective.model
    before, heads = gradient_norm(model), gradient_norm(objective.heads)
    networks = [gradient_norm(network) for network in model.backbones().values()]
    total, norms = clip_gradients(objective, before / 4, Accelerator(cpu=True))
    assert total.item() == pytest.approx(math.hypot(before, heads), rel=1e-4)
    assert norms.tolist() == pytest.approx(networks, rel=1e-4)
    assert gradient_norm(model) == pytest.approx(before / 4, rel=1e-4)
    assert gradient_norm(objective.heads) == heads


def test_a_gradient_of_a_streams_own_head_that_is_not_finite_shows_in_the_norm(config, batch):
    objective = objective_of(config, config.recipe.model)
    objective(batch).total.backward()
    next(objective.heads.parameters()).grad[0] = float("inf")
    total, norms = clip_gradients(objective, 1.0, Accelerator(cpu=True))
    assert not total.isfinite(), "a gradient scaler takes no step then, so nothing else may be updated"
    assert norms.isfinite().all()
