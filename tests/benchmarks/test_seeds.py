"""The benchmark of a recipe over seeds, with a table of clips and folds."""

import argparse
import csv
import json
import sys
from pathlib import Path

import pytest
import seeds
import trainings

from pipeline.common.errors import UserError
from pipeline.common.recipe import load_recipe


def test_a_recipe_that_chooses_no_epoch_is_fitted_on_all_clips_of_the_training_part(drawn_root):
    dataset, chooses = trainings.dataset_of(f"drawn={drawn_root}"), load_recipe("demo")
    chooses_none = trainings.change_recipe(chooses, training={"select_on": "none"})
    assert trainings.config_for(dataset, chooses).fit_on == "train"
    assert trainings.config_for(dataset, chooses_none, folds=3).fit_on == "train_and_dev"


def test_the_classes_of_a_table_are_its_labels(drawn_root, tmp_path):
    write_clip_table(drawn_root, tmp_path)
    dataset = trainings.dataset_of(f"drawn={tmp_path}")
    assert dataset.table == str(tmp_path / "clips.csv")
    assert dataset.classes == ["negative", "neutral", "positive"]


def test_a_seed_that_is_trained_in_a_temporary_folder_starts_from_a_run_that_is_named_in_full(workspace, finished):
    folder, config = workspace
    recipe = config.recipe.model_copy(update={"init": str(finished[0])})
    task = trainings.SeedTask(folder, config.model_copy(update={"recipe": recipe}), 0, keep_runs=False)
    result = trainings.train_and_evaluate(task)
    assert result.provenance.runs[0].initial.weights.share == 1


def test_a_setting_of_the_recipe_can_be_another_one_and_no_other_setting():
    parser = argparse.ArgumentParser()
    trainings.add_arguments(parser)
    changed = parser.parse_args(["--set", "recipe.model.use=[sound]", "--set", "recipe.training.epochs=3"])
    recipe = trainings.recipe_of(changed)
    assert (recipe.model.use, recipe.training.epochs) == (["sound"], 3)
    assert recipe.model.layers == load_recipe("demo").model.layers
    with pytest.raises(UserError, match="--set changes folds, expected a setting of the recipe"):
        trainings.recipe_of(parser.parse_args(["--set", "folds=5"]))


@pytest.mark.parametrize("argument", ["set", "set=", "set=/no/such/folder"])
def test_a_data_set_that_is_not_there_is_refused_in_one_sentence(argument, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["seeds.py", argument])
    with pytest.raises(SystemExit):
        seeds.main()
    assert capsys.readouterr().err == (
        f"error: {argument} is not NAME=FOLDER with a folder of clips, such as demo=data/demo\n"
    )


@pytest.mark.slow
def test_it_prints_the_accuracy_of_each_seed_out_of_fold_and_last_their_summary(benchmark):
    seeds_3_and_5 = benchmark("--seeds", "3", "5")
    accuracies, summary = accuracies_in(seeds_3_and_5), json.loads(seeds_3_and_5[-1])
    assert accuracies.keys() == {"seed 3", "seed 5"}
    assert (summary["recipe"], summary["n"]) == ("demo", 2)
    assert (summary["min"], summary["max"]) == (min(accuracies.values()), max(accuracies.values()))
    assert summary["mean"] == pytest.approx(sum(accuracies.values()) / 2, abs=1e-4)


@pytest.mark.slow
def test_with_a_workspace_no_finished_run_is_trained_again(benchmark, tmp_path):
    workspace = tmp_path / "workspace"
    first = accuracies_in(benchmark("--seeds", "3", "--workspace", str(workspace)))
    weights = sorted(workspace.glob("runs/drawn/demo/seed-3/*/model.safetensors"))
    written = [path.stat().st_mtime_ns for path in weights]
    both = accuracies_in(benchmark("--seeds", "3", "5", "--workspace", str(workspace)))
    assert both["seed 3"] == first["seed 3"]
    assert "seed 5" in both
    assert [path.stat().st_mtime_ns for path in weights] == written
    assert len(written) == 3


@pytest.fixture
def benchmark(drawn_root, tmp_path, monkeypatch, capsys):
    """Runs the benchmark on a table of clips, one epoch and three folds, and returns the lines that it prints."""
    write_clip_table(drawn_root, tmp_path)
    small = trainings.change_recipe(
        load_recipe("demo"), model={"norm_clips": 2}, training={"batch_size": 2, "select_on": "none"}
    )
    monkeypatch.setattr(trainings, "load_recipe", lambda *_: small)

    def run(*options: str) -> list[str]:
        common = [
            "seeds.py",
            f"drawn={tmp_path}",
            "--recipe",
            "demo",
            "--set",
            "recipe.training.epochs=1",
            "--folds",
            "3",
        ]
        monkeypatch.setattr(sys, "argv", [*common, *options])
        seeds.main()
        return capsys.readouterr().out.splitlines()

    return run


def accuracies_in(lines: list[str]) -> dict[str, float]:
    return {line.split(": ")[0]: float(line.split(": ")[1]) for line in lines if line.startswith("seed ")}


def write_clip_table(drawn_root: Path, folder: Path) -> None:
    """A table of the train clips of the drawn set, in a folder of its own."""
    labels = [line.split() for line in (drawn_root / "Train_labels.txt").read_text().splitlines()[1:]]
    names = dict(zip("123", ("positive", "neutral", "negative"), strict=True))
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "source"])
        for clip_id, label in labels:
            writer.writerow([drawn_root / f"Train/{clip_id}.mp4", names[label], clip_id.split("_")[0]])
