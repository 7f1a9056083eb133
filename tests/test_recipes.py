"""Each recipe trains: real steps of its optimiser, all of its parts, from random weights."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from pipeline.clips.manifest import SPLITS, index_split, write_manifest
from pipeline.common.config import Recipe, load_recipe, recipe_names
from pipeline.extraction.tasks import extract_splits
from pipeline.loading.loader import split_step, train_batches
from pipeline.training.loop import optimization_step, plan_of_epoch, start_run

# Pictures as small as the networks take, too small for a grid, and no more frames: the same layers on less.
SMALLER = {"frames": 8, "frame_size_px": 32}


# The first step leaves what is behind a norm that starts at zero (ResNet's last ones); the second moves all.
STEPS = 2
LARGE = {"paper", "strong"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in recipe_names()]
)
def test_a_recipe_takes_steps_that_move_every_weight(name, config, drawn_root, tmp_path, monkeypatch):
    values = load_recipe(name).model_dump()
    values["features"] |= SMALLER
    for modality in ("video", "audio"):
        values["model"][modality] |= {"weights": "none", "grid": 1}
    values["training"] |= {"batch_size": 2, "mixed_precision": "no", "warmup": 0.0}
    config = config.model_copy(update={"recipe": Recipe.model_validate(values)})
    monkeypatch.chdir(tmp_path)
    clips = {split: index_split(drawn_root, split)[0] for split in SPLITS}
    Path(config.manifests).mkdir(parents=True)
    for split in SPLITS:
        write_manifest(clips[split], config.manifests / f"{split}.csv")
    extract_splits(clips, drawn_root, config.shards, config.recipe.features, config.extract, 1)

    run = start_run(config, Accelerator(cpu=True), Path("checkpoints"))
    parts = split_step(2, 0, 1, config.recipe.training.micro_batches)
    batches = train_batches(run.data.training, plan_of_epoch(run, 0)[:STEPS], parts, config.recipe.features, 1, False)
    run.trained.train()
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    losses = [optimization_step(run, batches, parts) for _ in range(STEPS)]

    assert all(torch.isfinite(loss) for loss in losses)
    still = [name for name, parameter in run.model.named_parameters() if torch.equal(parameter, before[name])]
    assert [name for name in still if before[name].abs().sum() > 0] == []
    if run.average:
        averaged = dict(run.average.module.named_parameters())
        assert any(not torch.equal(averaged[name], before[name]) for name in before)
