import pytest
import torch

from pipeline.models.model import GroupEmotionModel
from pipeline.training.optimization import build_optimizer, learning_rate, parameter_groups, set_learning_rate


def test_the_learning_rate_rises_then_falls_to_zero(config):
    settings = config.recipe.training.model_copy(update={"warmup": 0.1, "learning_rate": 1.0})
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[99] == pytest.approx(0, abs=1e-9)


@pytest.fixture
def rated(config):
    """The learning rate and the weight decay of each parameter, at a learning rate of 1."""
    scales = config.recipe.training.rate_scales.model_copy(update={"backbones": 0.1, "fusion": 2.0, "head": 10.0})
    settings = config.recipe.training.model_copy(update={"rate_scales": scales, "layer_decay": 0.5})
    model = GroupEmotionModel(config.recipe.model, config.recipe.features, config.dataset.classes)
    optimizer = build_optimizer(model, settings)
    set_learning_rate(optimizer, 1.0)
    rates = {p: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    return {name: rates[parameter] for name, parameter in model.named_parameters()}


def test_every_parameter_is_trained_at_the_rate_of_its_part(rated):
    assert rated["fusion.heads.0.2.weight"][0] == 10.0
    assert rated["fusion.layers.0.video_to_audio.attention.in_proj_weight"][0] == 2.0
    assert rated["fusion.entrances.video.summary"][0] == 2.0
    assert rated["networks.video.network.2.0.weight"][0] == 0.1


def test_a_backbones_early_layers_learn_more_slowly(rated):
    rates = [rated[f"networks.video.network.{depth}.0.weight"][0] for depth in range(3)]
    assert rates == pytest.approx([0.1 / 4, 0.1 / 2, 0.1])
    assert rated["networks.audio.network.0.0.weight"][0] == pytest.approx(0.1 / 8)


def test_only_matrices_and_kernels_decay(rated, config):
    decay = config.recipe.training.weight_decay
    assert rated["fusion.heads.0.2.weight"][1] == rated["networks.video.network.0.0.weight"][1] == decay
    assert (
        rated["fusion.heads.0.2.bias"][1]
        == rated["fusion.entrances.video.summary"][1]
        == rated["fusion.entrances.audio.norm.weight"][1]
        == 0.0
    )


def test_tokens_and_positions_of_a_transformer_do_not_decay(config):
    video = config.recipe.model.video.model_copy(update={"name": "vit_tiny_patch16_224", "grid": 2})
    settings = config.recipe.model.model_copy(update={"video": video})
    model = GroupEmotionModel(settings, config.recipe.features, config.dataset.classes)
    groups = parameter_groups(model, config.recipe.training)
    decayed = {parameter for group in groups for parameter in group["params"] if group["weight_decay"]}
    named = dict(model.named_parameters())
    network = "networks.video.network"
    for name in (f"{network}.pos_embed", f"{network}.cls_token", "fusion.entrances.video.places"):
        assert named[name].dim() >= 2
        assert named[name] not in decayed
    assert named[f"{network}.blocks.0.attn.qkv.weight"] in decayed


def test_no_parameter_is_left_out(config):
    model = GroupEmotionModel(config.recipe.model, config.recipe.features, config.dataset.classes)
    optimizer = build_optimizer(model, config.recipe.training)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(model.parameters()))
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in trained)
