"""Each recipe can be trained: from random weights, real steps of its optimiser move every part of it."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from helpers import dataset_at, extraction_in_this_process
from stand_in_detector import write_stand_in

from pipeline.clips.indexing import index_dataset
from pipeline.clips.manifest import write_manifests
from pipeline.clips.splits import assign_roles, write_assignments
from pipeline.common.config import RunId
from pipeline.common.files import sha256_of
from pipeline.common.recipe import Recipe, load_recipe, recipe_names
from pipeline.extraction import face_detector
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.splits import extract_splits
from pipeline.loading.loader import Loader
from pipeline.loading.plan import split_step
from pipeline.training.loop import optimization_step
from pipeline.training.setup import start_training

# Small pictures and few frames that the networks accept: the same layers on less data.
SMALLER = {"frames": 8, "frame_size_px": 32}
PATCHES_OF_14 = {"strong": 56}  # the side of pictures for a network that cuts them into patches of 14 px
# A norm that starts at zero (ResNet's last ones) hides what is behind it from the first step; the second moves all.
STEPS = 2
LARGE = {"paper", "strong", "strong-lite"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in recipe_names()]
)
def test_a_recipe_takes_steps_that_move_every_weight(name, config, drawn_root, tmp_path, monkeypatch):
    values = load_recipe(name).model_dump()
    values["features"] |= SMALLER | {"frame_size_px": PATCHES_OF_14.get(name, SMALLER["frame_size_px"])}
    values["model"] |= {"frames": SMALLER["frames"], "views": 1}
    values["features"]["people"] |= {"size_px": 32}
    for stream in values["model"]["streams"].values():
        frames = stream["frames"] and min(stream["frames"], SMALLER["frames"])
        stream |= {"weights": "none", "sha256": None, "grid": 1, "frames": frames}
    values["model"]["norm_clips"] = 2
    values["training"] |= {
        "batch_size": 2,
        "micro_batches": 1,
        "freeze_epochs": 0,
        "mixed_precision": "no",
        "warmup": 0.0,
    }
    config = config.model_copy(update={"recipe": Recipe.model_validate(values)})
    monkeypatch.chdir(tmp_path)
    clips, summary = index_dataset(dataset_at(drawn_root))
    write_manifests(clips, summary, config.manifests)
    write_assignments(assign_roles(clips, config), config.manifests)
    detector = write_stand_in(tmp_path / "detector.onnx", everywhere=True)
    monkeypatch.setattr(face_detector, "DETECTOR_SHA256", sha256_of(detector))
    limits = config.extract.model_copy(update={"face_detector": str(detector)})
    settings = ClipSettings(features=config.recipe.features, limits=limits)
    with extraction_in_this_process():
        extract_splits(clips, drawn_root, config.shards, settings, 1)

    training = start_training(config, RunId(0), Accelerator(cpu=True), Path("run"), Path("checkpoints"))
    model, average = training.state.model, training.state.average
    parts = split_step(2, 0, 1, config.recipe.training.micro_batches)
    plan = training.plan_of_epoch(0)[:STEPS]
    frames = training.frames_of_steps(0, STEPS)
    batches = Loader(config.recipe.features, threads=1).train_batches(training.clips.training, plan, frames, parts)
    training.wrapped.train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = [optimization_step(training, batches, parts) for _ in range(STEPS)]

    assert all(torch.isfinite(loss) for loss in losses)
    unmoved = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert [name for name in unmoved if before[name].abs().sum() > 0] == []
    if average:
        averaged = dict(average.module.named_parameters())
        assert any(not torch.equal(averaged[name], before[name]) for name in before)
