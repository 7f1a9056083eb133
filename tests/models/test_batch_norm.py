"""BatchNorm over groups of clips: neither clips of other groups nor the number of groups change what is computed."""

import pytest
import torch
from short_trainings import with_model, with_stream
from torch import nn

from pipeline.clips.labels import CLASSES
from pipeline.models.batch_norm import run_in_groups
from pipeline.models.model import GroupEmotionModel


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()


def test_in_training_a_clips_output_depends_on_its_group_alone():
    clips = torch.randn(8, 3, 6, 6)
    others = torch.cat([clips[:4], torch.randn(4, 3, 6, 6)])
    whole, changed = run_in_groups(network(), clips, 4), run_in_groups(network(), others, 4)
    torch.testing.assert_close(whole[:4], network()(clips[:4]))
    torch.testing.assert_close(changed[:4], whole[:4])
    assert not torch.allclose(changed[4:], whole[4:])


def test_the_running_statistics_become_the_mean_over_the_groups():
    clips, together, alone = torch.randn(6, 3, 6, 6), network(), [network() for _ in range(3)]
    run_in_groups(together, clips, 2)
    for part, each in zip(clips.split(2), alone, strict=True):
        each[1].momentum = 1.0
        each(part)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(
            getattr(together[1], name), torch.stack([getattr(each[1], name) for each in alone]).mean(dim=0)
        )


@pytest.mark.parametrize("model", [network().eval(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))])
def test_a_network_without_statistics_takes_all_clips_at_once(model):
    calls = []
    model.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    run_in_groups(model, torch.randn(8, 3, 6, 6), 2)
    assert calls == [8]


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_050", "densenet121", "resnet18"])
def test_groups_keep_the_activations_of_every_family(name, config, batch):
    """A conversion of BatchNorm layers would lose those that a layer of timm has inside."""
    settings = with_stream(with_model(config, norm_clips=4), "scene", network=name).recipe.model
    torch.manual_seed(0)
    model = GroupEmotionModel(settings, config.recipe.features, CLASSES).train()
    backbone = model.backbones()["scene"]
    torch.testing.assert_close(run_in_groups(backbone, batch.frames, 4), backbone(batch.frames), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "norm_clips", "together"), [("small", 4, 4), ("small", 0, 1), ("convnext_atto", 4, 1)]
)
def test_clips_stay_together_in_groups_where_a_network_has_batch_norm(name, norm_clips, together, config):
    settings = with_stream(with_model(config, norm_clips=norm_clips, use=["scene"]), "scene", network=name).recipe.model
    assert GroupEmotionModel(settings, config.recipe.features, CLASSES).clips_together == together


def test_with_norm_clips_0_the_statistics_stay_as_they_were_loaded(config, batch):
    settings = config.recipe.model.model_copy(update={"norm_clips": 0, "dropout": 0.0})
    model = GroupEmotionModel(settings, config.recipe.features, CLASSES).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    trained = model(batch)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    torch.testing.assert_close(trained, model.eval()(batch))
