"""Splits keep sources whole, are the same for all seeds, and are balanced over classes as far as that allows."""

import random
from collections import Counter

import pytest

from pipeline.clips.manifest import Clip
from pipeline.clips.splits import (
    assign_roles,
    read_assignments,
    read_current_assignments,
    summarize_roles,
    write_assignments,
)
from pipeline.common.config import Config, parse_config, with_changes
from pipeline.common.errors import UserError


@pytest.fixture
def settings(values):
    """Makes settings with other values for some keys."""

    def make(**changes: object) -> Config:
        keys = {"select_on": "recipe.training.select_on", "dev_fraction": "recipe.training.dev_fraction"}
        return parse_config(with_changes(values, {keys.get(key, key): value for key, value in changes.items()}), "test")

    return make


def drawn_clips(prefix: str, sources: int, seed: int) -> list[Clip]:
    """Sources of 8 to 60 clips, each with a leaning to one of the classes, as in VGAF."""
    rng = random.Random(seed)
    clips = []
    for source in range(sources):
        leaning = [rng.random() for _ in range(3)]
        for number in range(rng.randint(8, 60)):
            label = rng.choices(("positive", "neutral", "negative"), leaning)[0]
            clips.append(CLIP(f"{prefix}{source}_{number}", f"{prefix}{source}", label))
    return clips


def CLIP(clip_id: str, source: str, label: str) -> Clip:  # noqa: N802 - stands for a constructor with fewer arguments
    return Clip(clip_id, source, label, f"{clip_id}.mp4", 1, "0" * 64)


@pytest.fixture
def clips() -> dict[str, list[Clip]]:
    return {"train": drawn_clips("t", 60, 1), "val": drawn_clips("v", 12, 2)}


def roles_of(assignments, fold=None):
    return {each.clip_id: each.role for each in assignments if each.fold == fold}


def test_dev_is_made_of_whole_sources_of_train_and_val_is_reported(clips, settings):
    assignments = assign_roles(clips, settings())
    sources = {role: {row.source_id for row in assignments if row.role == role} for role in ("fit", "dev", "test")}
    assert not sources["fit"] & sources["dev"]
    assert {row.clip_id for row in assignments if row.role == "test"} == {clip.clip_id for clip in clips["val"]}
    assert len(assignments) == len(clips["train"]) + len(clips["val"])


@pytest.mark.parametrize("split_seed", range(8))
def test_dev_has_about_its_share_of_each_class(clips, settings, split_seed):
    fit, dev, _ = summarize_roles(
        assign_roles(clips, settings(split_seed=split_seed)), ("positive", "neutral", "negative")
    )
    for label, count in dev.class_counts.items():
        assert 0.07 < count / (count + fit.class_counts[label]) < 0.13


@pytest.mark.parametrize("split_seed", range(4))
def test_a_source_that_holds_most_clips_is_not_dev(settings, split_seed):
    train = [CLIP(f"{source}_{number}", source, "neutral") for source in "abcd" for number in range(10)]
    train += [CLIP(f"large_{number}", "large", "neutral") for number in range(60)]
    roles = assign_roles({"train": train, "val": train[:1]}, settings(dev_fraction=0.2, split_seed=split_seed))
    assert sum(row.role == "dev" for row in roles) == 10


def test_classes_of_one_clip_each_leave_none_to_hold_out(settings):
    train = [CLIP(f"{label}_1", label, label) for label in ("positive", "neutral", "negative")]
    with pytest.raises(UserError, match="no class has two clips to choose from; set fit_on=train_and_dev"):
        assign_roles({"train": train, "val": train}, settings())


def test_dev_follows_from_the_split_seed_and_not_from_the_seeds(clips, settings):
    first = assign_roles(clips, settings(seeds=[0]))
    assert assign_roles(clips, settings(seeds=[7, 8])) == first
    assert assign_roles(clips, settings(split_seed=1)) != first


def test_folds_test_each_clip_once_and_never_a_source_that_was_trained_on(clips, settings):
    assignments = assign_roles(clips, settings(folds=5))
    tested = Counter(row.clip_id for row in assignments if row.role == "test")
    assert tested == {clip.clip_id: 1 for clip in clips["train"]}
    for fold in range(1, 6):
        rows = [row for row in assignments if row.fold == fold]
        sources = [{row.source_id for row in rows if row.role == role} for role in ("fit", "dev", "test")]
        assert all(sources)
        assert sum(map(len, sources)) == len(set().union(*sources))
        assert 0.15 < len([row for row in rows if row.role == "test"]) / len(rows) < 0.25


def test_folds_over_both_splits_refuse_an_id_that_both_have(clips, settings):
    shared = {
        "train": [*clips["train"], CLIP("1_1", "1", "neutral")],
        "val": [*clips["val"], CLIP("1_1", "1", "positive")],
    }
    both = settings(fit_on="train_and_val", select_on="none", folds=5)
    with pytest.raises(UserError, match="1 ids are in train and in val, the first is 1_1"):
        assign_roles(shared, both)
    assert assign_roles(clips, both)
    assert assign_roles(shared, settings(folds=5))  # val is not reported


def test_what_the_weights_are_fitted_on_is_a_setting(clips, settings):
    def fitted(**changes):
        return {
            clip_id for clip_id, role in roles_of(assign_roles(clips, settings(**changes))).items() if role == "fit"
        }

    train = {clip.clip_id for clip in clips["train"]}
    val = {clip.clip_id for clip in clips["val"]}
    assert fitted() < train
    assert fitted(fit_on="train_and_dev", select_on="none") == train
    everything = assign_roles(clips, settings(fit_on="train_and_val", select_on="none"))
    assert set(roles_of(everything).values()) == {"fit"}
    assert roles_of(everything).keys() == train | val


def test_a_data_set_without_val_can_be_fitted_on_as_a_whole_because_nothing_is_reported(clips, settings):
    assignments = assign_roles({"train": clips["train"], "val": []}, settings(fit_on="train_and_val", select_on="none"))
    assert roles_of(assignments) == {clip.clip_id: "fit" for clip in clips["train"]}


def test_an_epoch_cannot_be_chosen_on_clips_that_are_fitted_on(settings):
    for changes in ({"fit_on": "train_and_dev"}, {"fit_on": "train_and_val", "select_on": "val"}):
        with pytest.raises(UserError, match=r"so no clip of (dev|val) is held out to choose the epoch on"):
            settings(**changes)


def test_too_few_sources_are_refused_with_what_to_do(clips, settings):
    one = [clip for clip in clips["train"] if clip.source_id == "t0"]
    with pytest.raises(UserError, match="the clips to choose from are of 1 source; set fit_on=train_and_dev"):
        assign_roles({"train": one, "val": clips["val"]}, settings())
    with pytest.raises(UserError, match="60 sources cannot be cut into 61 parts; lower folds"):
        assign_roles(clips, settings(folds=61))
    with pytest.raises(UserError, match=r"all clips are of the source t0, .* name the person or recording"):
        assign_roles({"train": one, "val": clips["val"]}, settings(folds=2))
    with pytest.raises(UserError, match="has no val clips to report; set folds=5, or add a column split"):
        assign_roles({"train": clips["train"], "val": []}, settings())


def test_splits_are_read_back_as_they_were_written(clips, settings, tmp_path):
    assignments = assign_roles(clips, settings(folds=2))
    write_assignments(assignments, tmp_path)
    assert read_assignments(tmp_path, 1) + read_assignments(tmp_path, 2) == assignments
    with pytest.raises(UserError, match=r"splits.csv has no fold 3; run the split stage"):
        read_assignments(tmp_path, 3)
    with pytest.raises(UserError, match=r"splits.csv has no rows without folds; run the split stage"):
        read_assignments(tmp_path, None)


@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize("fit_on", ["train", "train_and_dev", "train_and_val"])
def test_roles_of_another_fit_on_are_refused(clips, settings, fit_on, folds, tmp_path, monkeypatch):
    """Else a run is fitted on val, its record says that it is not, and its accuracy on val is published."""
    monkeypatch.chdir(tmp_path)
    made_with = settings(fit_on=fit_on, folds=folds, select_on="none")
    made_with.manifests.mkdir(parents=True)
    write_assignments(assign_roles(clips, made_with), made_with.manifests)
    fold = folds and 1
    assert read_current_assignments(made_with, fold, clips)
    for other in {"train", "train_and_dev", "train_and_val"} - {fit_on}:
        config = settings(fit_on=other, folds=folds, select_on="none")
        with pytest.raises(UserError, match=f"(was made with another fit_on than {other}|is older than the manifests)"):
            read_current_assignments(config, fold, clips)


def test_fit_on_val_fits_a_data_set_without_val(clips, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, train = settings(fit_on="train_and_val", select_on="none"), {"train": clips["train"], "val": []}
    config.manifests.mkdir(parents=True)
    write_assignments(assign_roles(train, config), config.manifests)
    assert read_current_assignments(config, None, train)
