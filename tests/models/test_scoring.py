import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from short_trainings import count_calls, with_model

from pipeline.loading import batch as batches
from pipeline.loading.loader import Loader, PlannedBatch, read_batch
from pipeline.loading.memory import Memory
from pipeline.loading.selection import locate, open_split
from pipeline.models.model import GroupEmotionModel
from pipeline.models.scoring import Scorer


def scorer_of(config):
    """A scorer of a model with random weights."""
    torch.manual_seed(0)
    model = GroupEmotionModel(config.recipe.model, config.recipe.features, config.dataset.classes)
    return Scorer(model, Accelerator(cpu=True))


@pytest.fixture
def refs(ready):
    """The extracted train clips of the workspace."""
    return locate(*open_split(ready, "train"), ready.dataset.classes)


@pytest.fixture
def softmax_of(ready, refs):
    """The probabilities that a model gives of all clips with some of their frames, mirrored or not."""

    def softmax_of(model, frames, mirrored):
        batch = read_batch(PlannedBatch(refs, np.array(frames)), ready.recipe.features, Memory())
        if mirrored:
            batch.frames.copy_(batch.frames.flip(-1))
        with torch.no_grad():
            return model(batch).double().softmax(dim=-1).numpy()

    return softmax_of


@pytest.mark.parametrize("change", [lambda refs: refs[1:], lambda refs: [*refs, refs[0]]], ids=["less", "more"])
def test_a_clip_that_is_not_scored_exactly_once_ends_the_scoring(ready, refs, monkeypatch, change):
    eval_batches = Loader.eval_batches
    monkeypatch.setattr(Loader, "eval_batches", lambda self, clips, *rest: eval_batches(self, change(clips), *rest))
    with pytest.raises(AssertionError, match=f"expected {len(refs)}: this is a bug"):
        scorer_of(ready).score(refs, ready)


def test_clips_are_scored_by_the_middle_frame_of_each_part(ready, refs, softmax_of):
    config = with_model(ready, frames=2)
    scorer = scorer_of(config)
    expected = softmax_of(scorer.model, [1, 4], mirrored=False)
    np.testing.assert_allclose(scorer.score(refs, config), expected, atol=1e-6)


def test_the_score_of_a_clip_is_the_mean_of_the_probabilities_of_its_views(ready, refs, softmax_of):
    config = with_model(ready, frames=2, views=4)
    scorer = scorer_of(config)
    views = [([1, 4], False), ([1, 4], True), ([2, 5], False), ([2, 5], True)]
    probabilities = [softmax_of(scorer.model, *view) for view in views]
    np.testing.assert_allclose(scorer.score(refs, config), np.mean(probabilities, axis=0), atol=1e-6)
    assert min(np.ptp(probabilities, axis=0).max(axis=1)) > 1e-4, "the views differ"


@pytest.mark.parametrize(("frames", "views", "decoded_per_clip"), [(2, 1, 2), (2, 4, 4), (2, 6, 6), (6, 2, 6)])
def test_scoring_decodes_each_frame_of_the_views_once_and_no_other(
    ready, refs, monkeypatch, frames, views, decoded_per_clip
):
    calls = []
    monkeypatch.setattr(batches, "decode_jpeg", count_calls(batches.decode_jpeg, calls))
    config = with_model(ready, frames=frames, views=views)
    scorer_of(config).score(refs, config)
    assert len(calls) == decoded_per_clip * len(refs)


def test_the_embedding_of_a_clip_is_that_of_its_middle_frames_whatever_the_number_of_views(ready, refs):
    one, many = (scorer_of(with_model(ready, frames=2, views=views)) for views in (1, 5))
    embedded = []
    for scorer in (one, many):
        batch = read_batch(PlannedBatch(refs, scorer.model.sampling.evaluated), ready.recipe.features, Memory())
        embedded.append(scorer.embed(batch))
    for first, second in zip(*embedded, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_on_a_cpu_a_bf16_recipe_is_scored_in_full_precision(ready, refs):
    scorer = scorer_of(ready)
    expected = scorer.score(refs, ready)
    AcceleratorState._reset_state(True)
    scorer = Scorer(scorer.model, Accelerator(cpu=True, mixed_precision="bf16"))
    np.testing.assert_array_equal(scorer.score(refs, ready), expected)
    AcceleratorState._reset_state(True)
