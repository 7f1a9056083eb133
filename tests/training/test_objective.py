"""The loss of a training: that of the model, and beside it that of each stream alone."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from pipeline.clips.labels import CLASSES
from pipeline.models.fusion import Tokens
from pipeline.models.model import GroupEmotionModel
from pipeline.training.objective import Objective, class_weights, mean_token


@pytest.fixture
def build(config):
    """Builds the objective with a weight of the streams' losses, without dropout, so that calls can be compared."""

    def build(stream_loss, weights=(1.0, 1.0, 1.0)):
        torch.manual_seed(0)
        model = config.recipe.model.model_copy(update={"dropout": 0.0, "stochastic_depth": 0.0})
        settings = config.recipe.training.model_copy(update={"stream_loss": stream_loss, "label_smoothing": 0.1})
        return Objective(GroupEmotionModel(model, config.recipe.features, CLASSES), settings, torch.tensor(weights))

    return build


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def test_without_a_stream_loss_the_model_learns_from_its_own_loss_alone(build, batch):
    objective, plain = build(0.0), build(0.0).model
    loss = objective(batch)
    loss.total.backward()
    expected = F.cross_entropy(plain(batch), batch.labels, label_smoothing=0.1)
    expected.backward()
    torch.testing.assert_close(loss.fused, expected.detach())
    given = gradients(objective.model)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(given[name], gradient)
    assert all(gradient.abs().sum() > 0 for gradient in gradients(objective.heads).values()), "the heads learn"


def test_a_stream_loss_is_added_with_its_weight(build, batch):
    objective = build(0.3).eval()
    loss = objective(batch)
    streams = loss.streams[:, 0].sum() / len(batch.labels)
    torch.testing.assert_close(loss.total.detach(), loss.fused + 0.3 * streams)


def test_a_stream_loss_reaches_a_network_that_the_fusion_does_not_use(build, batch):
    objective = build(0.3)
    for head in objective.model.fusion.heads:
        torch.nn.init.zeros_(head[2].weight)  # no gradient passes the head of the model
    objective(batch).total.backward()
    for network in objective.model.backbones().values():
        assert all(gradient.abs().sum() > 0 for name, gradient in gradients(network).items() if "weight" in name)


def test_a_stream_is_measured_over_the_clips_that_have_it(build, batch):
    objective = build(0.3).eval()
    whole = objective(batch).streams
    absent = torch.zeros_like(batch.has_video)
    blind = objective(dataclasses.replace(batch, has_video=absent)).streams
    assert blind[0].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(blind[1], whole[1])
    assert whole[:, 2].tolist() == [batch.has_video.sum(), (batch.mel_frames > 0).sum()]


def test_a_stream_that_is_hidden_from_a_clip_is_as_one_that_the_clip_lacks(build, batch):
    objective = build(0.3).eval()
    blind = torch.tensor([True, False, True, False])  # the last clip has no sound
    hidden = objective(dataclasses.replace(batch, hidden={"scene": blind, "sound": torch.zeros_like(blind)}))
    lacking = objective(dataclasses.replace(batch, has_video=~blind))
    for name, value in vars(lacking).items():
        torch.testing.assert_close(getattr(hidden, name), value)
    assert hidden.streams[0, 2] == 2


def test_a_stream_is_measured_by_the_mean_of_its_tokens_that_are_not_padding():
    values, padding = torch.randn(2, 3, 2, 4), torch.tensor([[False, False, True], [True, True, True]])
    mean, present = mean_token(Tokens(values, torch.zeros(3), padding))
    torch.testing.assert_close(mean, torch.stack([values[0, :2].mean(dim=(0, 1)), torch.zeros(4)]))
    assert present.tolist() == [True, False]


def test_soft_labels_that_are_certain_are_hard_labels(build, batch):
    objective = build(0.3).eval()
    hard = objective(batch)
    soft = objective(dataclasses.replace(batch, labels=F.one_hot(batch.labels, len(CLASSES)).float()))
    torch.testing.assert_close(soft.total, hard.total)
    torch.testing.assert_close(soft.streams, hard.streams)


def test_the_heads_of_the_streams_are_no_part_of_the_model(build):
    objective = build(0.3)
    assert len(objective.state_dict()) > len(objective.model.state_dict())
    assert not any(name.startswith("heads") for name in objective.model.state_dict())


def test_the_loss_of_a_clip_is_multiplied_by_the_weight_of_its_class(build, batch):
    first = dataclasses.replace(batch, labels=torch.zeros_like(batch.labels))
    plain, weighted = (build(0.3, weights).eval()(first) for weights in ((1.0, 1.0, 1.0), (2.5, 1.0, 1.0)))
    torch.testing.assert_close(weighted.total, 2.5 * plain.total)
    second = dataclasses.replace(batch, labels=torch.ones_like(batch.labels))
    torch.testing.assert_close(build(0.3, (2.5, 1.0, 1.0)).eval()(second).total, build(0.3).eval()(second).total)


def test_the_loss_of_a_mixed_clip_is_multiplied_by_the_weights_of_its_classes_in_their_shares(build, batch):
    mixed = dataclasses.replace(batch, labels=torch.tensor([0.75, 0.25, 0.0]).expand(4, 3))
    plain, weighted = build(0.3).eval()(mixed), build(0.3, (2.0, 4.0, 1.0)).eval()(mixed)
    torch.testing.assert_close(weighted.total, (0.75 * 2.0 + 0.25 * 4.0) * plain.total)


def test_class_weights_make_all_classes_that_occur_weigh_the_same():
    labels = [0] * 6 + [1] * 3
    weights = class_weights(labels, 3, "weights")
    assert weights[2] == 0
    assert weights[0] * 6 == weights[1] * 3
    assert weights[torch.tensor(labels)].mean() == 1
    assert class_weights(labels, 3, "draws").tolist() == [1, 1, 1]
