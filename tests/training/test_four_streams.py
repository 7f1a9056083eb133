"""What holds for two streams holds for four: training, scoring, resuming, several processes."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from launches import Place, end
from matplotlib.patches import Rectangle
from short_trainings import (
    Killed,
    equal,
    history,
    interrupt,
    kill,
    train,
    train_and_evaluate,
    with_all_checkpoints,
    with_model,
    with_training,
)

from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import TRAIN
from pipeline.common.config import parse_config
from pipeline.common.errors import UserError
from pipeline.common.model_settings import FusionKind
from pipeline.loading.batch import collate
from pipeline.loading.loader import Loader, read_sample
from pipeline.loading.memory import Memory
from pipeline.loading.selection import locate, open_split
from pipeline.models.model import GroupEmotionModel
from pipeline.models.scoring import ScoredClip, Scorer
from pipeline.results.explanation import explain
from pipeline.results.pictures import draw_clip

STREAMS = ["scene", "motion", "people", "sound"]
KINDS = FusionKind.__args__


@pytest.fixture
def batch_of_four(ready_with_four):
    """The first clips with two people in each frame. The last one of them has no people."""
    config = ready_with_four
    clips = locate(*open_split(config, TRAIN), config.dataset.classes)[:4]
    samples = [read_sample(clip) for clip in clips]
    samples[-1] = dataclasses.replace(samples[-1], people=())
    features = config.recipe.features
    return collate(samples, [clip.label for clip in clips], np.arange(features.frames), features, Memory())


def model_of(config, **changes):
    torch.manual_seed(0)
    recipe = with_model(config, **changes).recipe
    return GroupEmotionModel(recipe.model, recipe.features, CLASSES).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_every_fusion_learns_from_all_streams(kind, ready_with_four, batch_of_four):
    model = model_of(ready_with_four, fusion=kind).train()
    model(batch_of_four).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in idle if not name.endswith("in_proj_bias")] == []


@pytest.mark.parametrize(("use", "is_decoded"), [(["scene", "sound"], False), (["people"], True)])
def test_faces_are_decoded_only_for_a_stream_that_takes_them(use, is_decoded, ready_with_four):
    config = with_model(ready_with_four, use=use)
    clips = locate(*open_split(config, TRAIN), CLASSES)[:2]
    loader = Loader.for_config(config, torch.device("cpu"))
    (batch,) = loader.eval_batches(clips, np.arange(config.recipe.features.frames), 2, rank=0, world=1)
    assert (batch.people is not None) == is_decoded


def test_a_clip_without_people_is_predicted_from_the_rest(ready_with_four, batch_of_four):
    model, batch = model_of(ready_with_four), batch_of_four
    assert batch.available["people"].tolist() == [True, True, True, False]
    people = dataclasses.replace(batch.people, crops=255 - batch.people.crops, boxes=1 - batch.people.boxes)
    with torch.no_grad():
        logits, others = model(batch), model(dataclasses.replace(batch, people=people))
    assert logits.isfinite().all()
    assert torch.equal(logits[3], others[3]), "what lies in the empty places changes nothing"
    assert (logits[:3] != others[:3]).any(dim=1).all()


@pytest.mark.parametrize("changed", ["boxes", "crops"])
def test_the_prediction_depends_on_what_the_faces_show_and_on_where_they_are(changed, ready_with_four, batch_of_four):
    model, batch = model_of(ready_with_four), batch_of_four
    value = getattr(batch.people, changed)
    people = dataclasses.replace(batch.people, **{changed: value.flip(-1) if changed == "crops" else value / 2})
    with torch.no_grad():
        assert not torch.equal(model(batch)[0], model(dataclasses.replace(batch, people=people))[0])


def test_the_order_of_the_faces_in_a_frame_changes_nothing(ready_with_four, batch_of_four):
    model, batch = model_of(ready_with_four), batch_of_four
    people = type(batch.people)(*(value.flip(2) for value in vars(batch.people).values()))
    with torch.no_grad():
        torch.testing.assert_close(model(batch), model(dataclasses.replace(batch, people=people)))


@pytest.fixture
def clip_of_four(ready_with_four, batch_of_four):
    """A scored clip with two faces in each frame, and its scorer."""
    scorer = Scorer(model_of(ready_with_four), Accelerator(cpu=True))
    one = dataclasses.replace(
        batch_of_four,
        clip_ids=["1_1"],
        people=type(batch_of_four.people)(*(value[:1] for value in vars(batch_of_four.people).values())),
        **{name: v[:1] for name, v in vars(batch_of_four).items() if isinstance(v, torch.Tensor)},
    )
    return ScoredClip("1_1", 4.0, one, CLASSES, scorer.probabilities(one)[0], None), scorer


def test_each_face_has_its_share_of_the_attention(ready_with_four, clip_of_four):
    explanation, one = explain(*clip_of_four), clip_of_four[0].batch
    frames = ready_with_four.recipe.model.frames
    assert explanation.faces.shape == (frames, 2)
    assert (explanation.faces > 0).all()
    curve = explanation.attention["people"]
    assert curve.shares.sum() == pytest.approx(explanation.faces.sum())
    assert curve.times_s.tolist() == pytest.approx(one.frame_times_s[0].tolist())
    assert set(explanation.alone) == set(STREAMS)


def test_the_attention_to_a_face_is_that_in_all_streams_that_take_people(ready_with_four, clip_of_four):
    streams = ready_with_four.recipe.model.model_dump()["streams"]
    streams["bodies"] = streams["people"] | {"frames": 3}
    model = model_of(ready_with_four, streams=streams, use=["people", "bodies", "sound"])
    explanation = explain(clip_of_four[0], Scorer(model, Accelerator(cpu=True)))
    both = explanation.attention["people"].shares
    both[1::2] += explanation.attention["bodies"].shares
    assert explanation.faces.sum(axis=1) == pytest.approx(both)


@pytest.mark.parametrize(("frame", "is_taken"), [(1, True), (0, False)])
def test_a_stream_that_takes_no_frame_with_a_face_has_no_prediction_alone(
    ready_with_four, clip_of_four, frame, is_taken
):
    """Of six frames, two views take frames 1 and 4 for people."""
    streams = ready_with_four.recipe.model.model_dump()["streams"]
    streams["people"]["frames"] = 2
    model = model_of(ready_with_four, streams=streams, frames=6, views=2)
    clip, _ = clip_of_four
    present = torch.zeros_like(clip.batch.people.present)
    present[:, frame] = True
    people = dataclasses.replace(clip.batch.people, present=present)
    clip = dataclasses.replace(clip, batch=dataclasses.replace(clip.batch, people=people))
    alone = explain(clip, Scorer(model, Accelerator(cpu=True))).alone
    assert ("people" in alone) == is_taken
    assert set(alone) >= {"scene", "motion", "sound"}


def test_the_picture_of_a_clip_has_a_box_with_its_attention_around_each_face(clip_of_four):
    figure = draw_clip(*clip_of_four)
    frames = [axes for axes in figure.axes if axes.get_title().endswith(" s")]
    boxes = [[patch for patch in axes.patches if isinstance(patch, Rectangle)] for axes in frames]
    assert [len(each) for each in boxes] == [2] * len(frames)
    shares = [text.get_text() for axes in frames for text in axes.texts]
    assert len(shares) == 2 * len(frames)
    assert all(share.endswith("%") for share in shares)
    first = clip_of_four[0].batch.people.boxes[0, 0, 0].tolist()
    centre = boxes[0][0].get_x() + boxes[0][0].get_width() / 2, boxes[0][0].get_y() + boxes[0][0].get_height() / 2
    assert centre == pytest.approx((first[0], 1 - first[1]))  # axes count from below


def test_four_streams_train_and_are_scored(ready_with_four, tmp_path, workspace_of_four):
    shared = workspace_of_four[0]
    for name in ("data", "data_manifests"):
        (tmp_path / name).symlink_to(shared / name)
    with contextlib.chdir(tmp_path):
        evaluation = train_and_evaluate(with_training(ready_with_four, epochs=1))
    assert evaluation.predictions.scored.sum() == 8
    assert {point.stream for point in evaluation.stream_curves} == set(STREAMS)


@pytest.mark.parametrize("step", [1, 4])
def test_a_training_of_four_streams_that_is_resumed_gives_the_same_weights(
    step, ready_with_four, tmp_path, monkeypatch
):
    config = with_all_checkpoints(with_training(ready_with_four, stream_loss=0.3, freeze_epochs=1))
    whole = train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, step, kill)
        with pytest.raises(Killed):
            train(config, tmp_path / "resumed")
    assert equal(whole, train(config, tmp_path / "resumed"))
    assert history(tmp_path / "resumed") == history(tmp_path / "whole")


@pytest.mark.slow
def test_four_streams_on_two_processes_give_what_one_gives(workspace_of_four, tmp_path):
    losses = {}
    for how in ("cpu", "multi_cpu"):
        (tmp_path / how).mkdir()
        place = Place(tmp_path / how, *workspace_of_four)
        try:
            place.run(how, "train")
            losses[how] = place.losses
        finally:
            end(place)
    assert losses["multi_cpu"] == pytest.approx(losses["cpu"], abs=1e-5)


def test_a_stream_of_fewer_frames_takes_the_middle_one_of_each_part(ready_with_four, batch_of_four):
    """Of six frames, a stream of two takes numbers 1 and 4, and the faces in them."""
    streams = ready_with_four.recipe.model.model_dump()["streams"]
    streams["people"]["frames"] = streams["motion"]["frames"] = 2
    model = model_of(ready_with_four, streams=streams, frames=6)
    tokens = model.tokens(model.sampling.view_of(batch_of_four, 0))
    times_s = batch_of_four.frame_times_s
    assert {name: each.values.shape[1] for name, each in tokens.items() if name != "sound"} == {
        "scene": 6,
        "motion": 2,
        "people": 4,
    }
    torch.testing.assert_close(tokens["motion"].times_s, times_s[:, [1, 4]])
    torch.testing.assert_close(tokens["people"].times_s, times_s[:, [1, 1, 4, 4]])
    torch.testing.assert_close(tokens["people"].boxes, batch_of_four.people.boxes[:, [1, 4]].flatten(1, 2))


def test_frames_of_a_stream_that_are_not_evenly_spaced_are_refused(ready_with_four):
    streams = ready_with_four.recipe.model.model_dump()["streams"]
    streams["motion"]["frames"] = 4
    with pytest.raises(
        ValueError, match=r"streams\.motion\.frames is 4, expected null or a number by which frames \(6\)"
    ):
        with_model(ready_with_four, streams=streams, frames=6)


def test_a_stream_of_people_needs_faces_in_the_shards(ready_with_four):
    values = ready_with_four.model_dump()
    values["recipe"]["features"]["people"]["most"] = 0
    with pytest.raises(UserError, match=r"features\.people\.most is 0.*the stream people takes people; raise it"):
        parse_config(values, "params.yaml")
