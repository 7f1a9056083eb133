"""Models of other streams that predict together: each is given what it takes."""

import dataclasses
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from short_trainings import with_model

from pipeline.clips.manifest import TRAIN
from pipeline.extraction.clip_reader import ClipMedia
from pipeline.loading.batch import collate
from pipeline.loading.loader import read_sample
from pipeline.loading.memory import Memory
from pipeline.loading.selection import locate, open_split
from pipeline.models.model import GroupEmotionModel
from pipeline.models.runs import FinishedRun, open_run
from pipeline.models.scoring import Scorer
from pipeline.serving import predictor
from pipeline.serving.predictor import Predictor


@pytest.fixture
def clip(ready_with_four):
    """A clip with faces, in a shard."""
    return locate(*open_split(ready_with_four, TRAIN), ready_with_four.dataset.classes)[0]


@pytest.fixture
def run_of(ready_with_four, finished):
    """Makes a run with random weights that uses the streams that are named."""

    def make(use):
        recipe = with_model(ready_with_four, use=use, frames=3, views=4).recipe
        config = ready_with_four.model_copy(update={"recipe": recipe})
        model = GroupEmotionModel(recipe.model, recipe.features, config.dataset.classes)
        return FinishedRun(dataclasses.replace(open_run(finished[0]).record, config=config), [], [], model)

    return make


@pytest.fixture(autouse=True)
def read_from_shards(clip, monkeypatch):
    """Any file is read as the clip, from its shard: no detector is needed."""

    class ReaderOfShards:
        def __init__(self, settings, sampling):
            self.batch = collate([read_sample(clip)], [0], sampling.evaluated, settings.features, Memory())

        def read_ahead(self, clips):
            for _ in clips:
                future = Future()
                future.set_result((ClipMedia(4.0, 25.0, [], [], [], None, []), self.batch))
                yield future

        def close(self):
            pass

    monkeypatch.setattr(predictor, "Reader", ReaderOfShards)
    monkeypatch.setattr(predictor, "check_detector", lambda settings: None)


@pytest.mark.parametrize("first", [["scene", "sound"], ["people", "sound"], ["sound"]], ids=" ".join)
def test_models_with_and_without_people_vote_together(first, run_of, clip, ready_with_four):
    """Whichever is named first, the faces and the frames of all views are read."""
    runs = [run_of(use) for use in (first, ["people", "sound"], ["scene"])]
    alone = [Scorer(run.model, Accelerator(cpu=True)).score([clip], ready_with_four)[0] for run in runs]
    answer = Predictor(runs[0], Accelerator(cpu=True), runs[1:]).predict(Path("1.mp4"))
    np.testing.assert_allclose(answer.clip.probabilities, np.mean(alone, axis=0), atol=1e-6)
