import pytest
from accelerate import Accelerator

from pipeline.loading.loader import Loader
from pipeline.loading.selection import locate, open_split
from pipeline.models.model import GroupEmotionModel
from pipeline.models.scoring import Scorer


@pytest.mark.parametrize("change", [lambda refs: refs[1:], lambda refs: [*refs, refs[0]]], ids=["less", "more"])
def test_a_clip_that_is_not_scored_exactly_once_ends_the_scoring(workspace, monkeypatch, change):
    monkeypatch.chdir(workspace[0])
    config = workspace[1]
    refs = locate(*open_split(config, "train"), config.dataset.classes)
    eval_batches = Loader.eval_batches
    monkeypatch.setattr(Loader, "eval_batches", lambda self, clips, *rest: eval_batches(self, change(clips), *rest))
    scorer = Scorer(
        GroupEmotionModel(config.recipe.model, config.recipe.features, config.dataset.classes), Accelerator(cpu=True)
    )
    with pytest.raises(AssertionError, match=f"expected {len(refs)}: this is a bug"):
        scorer.score(refs, config)
