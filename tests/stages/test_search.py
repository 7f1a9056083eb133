import shutil

import optuna
import pytest
import yaml

SPACE = {"recipe.model.dropout": {"low": 0.0, "high": 0.5, "log": False}, "recipe.model.layers": [1, 2]}


@pytest.fixture
def place(workspace, tmp_path):
    """A folder with data, settings, and a small space to search."""
    folder, config = workspace
    shutil.copytree(folder / "data_manifests", tmp_path / "data_manifests")
    shutil.copytree(folder / "data/shards", tmp_path / "data/shards")
    values = config.model_dump()
    values["recipe"]["training"]["epochs"] = 1
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/search.yaml").write_text(yaml.safe_dump(SPACE))
    return tmp_path


@pytest.fixture
def search(stage, place):
    return lambda: stage("search", "--trials", 1, folder=place)


@pytest.mark.slow
def test_a_search_continues_its_study_and_ends_with_the_options_of_its_best_trial(search, place):
    first = search()
    assert first.returncode == 0, first.stderr
    assert "best of 1 trials" in first.stdout
    second = search()
    best, options = second.stdout.strip().splitlines()[-2:]
    assert best.startswith("best of 2 trials: ")
    assert "add these options to the dvc exp run command of the experiment" in best
    assert options.startswith("-S recipe.model.dropout=0.")
    assert "-S recipe.model.layers=" in options
    assert not (place / "runs/demo").exists()
    (study,) = studies(place)
    assert study.trials[0].params != study.trials[1].params


def studies(place):
    storage = f"sqlite:///{place}/runs/search/demo.db"
    return [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]


@pytest.mark.slow
def test_other_settings_or_another_space_make_another_study(search, place):
    space = {"recipe.model.layers": [1]}
    for change in ({}, {"recipe.training.label_smoothing": [0.0]}):
        (place / "configs/search.yaml").write_text(yaml.safe_dump(space | change))
        assert search().returncode == 0
    values = yaml.safe_load((place / "params.yaml").read_text())
    values["recipe"]["training"]["weight_decay"] = 0.2
    (place / "params.yaml").write_text(yaml.safe_dump(values))
    assert search().returncode == 0
    assert [len(study.trials) for study in studies(place)] == [1, 1, 1]


@pytest.mark.parametrize(("space", "reason"), [
    ("recipe.model.dropout: {low: 0.0}", "configs/search.yaml does not describe a search space"),
    ("recipe.model.dropuot: [0.1]", "unknown key recipe.model.dropuot"),
    ("recipe.modle.dropout: [0.1]", "unknown key recipe.modle"),
    ("recipe.model.dropout: {low: 0.0, high: 1.5, log: false}", "recipe.model.dropout is 1.5"),
    ("recipe.model.layers: []", "configs/search.yaml does not describe a search space"),
    ("recipe.model.layers: [1, oops, 3]", "recipe.model.layers"),
    ("recipe.model.dropout.x: [1]", "recipe.model.dropout.x is not a setting"),
    ("recipe.model.dropout: {low: 0.5, high: 0.1, log: false}", "low (0.5) must not exceed high (0.1)"),
    ("recipe.model.dropout: {low: 0.0, high: 0.1, log: true}", "and must be above 0 with log"),
    ("recipe.training.select_on: [val]", "recipe.training.select_on cannot be searched"),
    ("recipe.training.mixed_precision: ['no', bf16]", "recipe.training.mixed_precision cannot be searched"),
    ("seed: [0, 1]", "seed cannot be searched; expected a key of recipe"),
    ("[", "configs/search.yaml cannot be read"),
])  # fmt: skip
def test_a_wrong_space_is_refused_with_a_sentence(search, place, space, reason):
    (place / "configs/search.yaml").write_text(space)
    refused = search()
    assert refused.returncode == 2
    assert reason in refused.stderr


def test_a_search_without_shards_ends_before_its_first_trial(search, place):
    shutil.rmtree(place / "data")
    done = search()
    assert done.returncode == 2
    assert "index.json is missing; run the extract stage" in done.stderr
    assert not (place / "runs/search").exists()


def test_a_search_with_folds_is_refused(search, place):
    values = yaml.safe_load((place / "params.yaml").read_text())
    values["folds"] = 3
    (place / "params.yaml").write_text(yaml.safe_dump(values))
    done = search()
    assert done.returncode == 2
    assert "folds is 3, but a search compares trials on sources held out of one training" in done.stderr


def test_a_search_needs_one_trial_at_least(stage, place):
    done = stage("search", "--trials", 0, folder=place)
    assert "'0' is not a whole number of 1 or more" in done.stderr


@pytest.mark.parametrize("split", ["val", "none"])
def test_a_search_without_held_out_sources_is_refused(search, place, split):
    values = yaml.safe_load((place / "params.yaml").read_text())
    values["recipe"]["training"]["select_on"] = split
    (place / "params.yaml").write_text(yaml.safe_dump(values))
    done = search()
    assert done.returncode == 2
    assert f"recipe.training.select_on is {split}; a search needs dev" in done.stderr
