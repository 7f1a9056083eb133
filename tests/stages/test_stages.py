"""A user's mistakes at the command line: one sentence, exit code 2, no traceback."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import REPOSITORY


@pytest.fixture
def workspace(drawn_root, tmp_path, values):
    shutil.copytree(drawn_root, tmp_path / "data/demo")
    write(tmp_path, values)
    return tmp_path


def write(workspace, values):
    (workspace / "params.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture
def run(stage, workspace):
    return lambda name: stage(name, folder=workspace)


def started(name, folder, **environment):
    """Runs a stage in a process of its own, as a launcher with this environment would start it."""
    command = [sys.executable, "-m", f"stages.{name}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})


def sentence(done):
    """The one line that a refused run printed."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda root: (root / "Val_labels.txt").unlink(), "Val_labels.txt is missing"),
        (lambda root: (root / "Val_labels.txt").write_text("id class\n4_1 1"), "expected the header 'Vid_name Label'"),
        (lambda root: append(root / "Val_labels.txt", "\n4_9 4"), "the label of clip 4_9 is '4'"),
        (lambda root: append(root / "Val_labels.txt", "\n4_1 1"), "labelled a second time"),
        (lambda root: append(root / "Val_labels.txt", "\n4_9 1"), "lacks 4_9.mp4"),
        (lambda root: (root / "Val/4_9.mp4").touch(), "no line for 4_9"),
        (lambda root: (root / "Val_labels.txt").write_text("Vid_name Label"), "Val_labels.txt lists no clip"),
        (shutil.rmtree, "data set folder data/demo does not exist"),
    ],
)
def test_a_data_set_with_a_mistake_is_refused(run, workspace, break_it, named):
    break_it(workspace / "data/demo")
    assert named in sentence(run("index"))


def test_a_recording_in_both_splits_is_refused_and_where_that_is_allowed_it_is_said(run, workspace, values):
    train, val = (sorted((workspace / "data/demo" / split).glob("*.mp4"))[0] for split in ("Train", "Val"))
    shutil.copyfile(train, val)
    named = f"recordings with clips in train and in val: 1, {train.stem} in train and {val.stem} in val among them"
    assert named in sentence(run("index"))
    values["dataset"]["allow_identical"] = True
    write(workspace, values)
    done = run("index")
    assert done.returncode == 0
    assert f"warning: {named}" in done.stderr


def test_the_clips_that_a_table_lists_are_indexed_and_extracted_wherever_they_lie(run, workspace, values):
    (workspace / "lists").mkdir()
    videos = sorted((workspace / "data/demo/Train").glob("*.mp4"))[:2]
    lines = [f"../data/demo/Train/{videos[0].name},calm,a,0.5,2", f"{videos[1]},2,b,,"]
    (workspace / "lists/clips.csv").write_text("\n".join(["path,label,source,start_s,end_s", *lines]))
    values["dataset"] |= {"name": "listed", "table": "lists/clips.csv", "root": "lists/clips.csv", "classes": []}
    write(workspace, values)
    assert "lists/clips.csv has the labels 2, calm" in sentence(run("index"))
    values["dataset"] |= {"classes": ["calm", "wild"]}
    write(workspace, values)
    assert run("index").returncode == 0
    done = run("extract")
    assert done.returncode == 0, done.stderr
    (shards,) = (workspace / "data/shards/listed").iterdir()
    index = json.loads((shards / "train/index.json").read_text())
    entries = [entry for shard in index["shards"] for entry in shard["entries"]]
    assert {entry["clip_id"] for entry in entries} == {f"{videos[0].stem}-500-2000", videos[1].stem}
    assert json.loads((shards / "val/index.json").read_text())["shards"] == []


def append(path, text):
    path.write_text(path.read_text() + text)


def test_settings_with_a_mistake_are_refused(run, workspace, values):
    values["recipe"]["training"]["learning_rate"] = "1e-3"
    write(workspace, values)
    assert "recipe.training.learning_rate is the text '1e-3', expected a number" in sentence(run("index"))
    values["recipe"]["training"]["learning_rate"] = 1.0e-3
    values["recipe"]["frames"] = 8
    write(workspace, values)
    assert "unknown key recipe.frames" in sentence(run("index"))


def test_a_stage_that_comes_too_early_names_the_missing_one(run):
    assert "run the index stage" in sentence(run("extract"))


def test_a_text_file_in_place_of_a_video_is_quarantined(run, workspace, values):
    values["extract"]["max_failed_fraction"] = 0.2
    write(workspace, values)
    broken = sorted((workspace / "data/demo/Train").glob("*.mp4"))[0]
    broken.write_text("not a video")
    assert run("index").returncode == 0
    done = run("extract")
    assert done.returncode == 0, done.stderr
    (shards,) = (workspace / "data/shards/demo").iterdir()
    with (shards / "quarantine.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["split"], row["clip_id"], row["reason"]) == ("train", broken.stem, "unreadable")

    values["extract"]["max_failed_fraction"] = 0.05
    write(workspace, values)
    refused = sentence(run("extract"))
    assert "1 of 9 train clips were quarantined, more than extract.max_failed_fraction = 0.05 allows" in refused
    assert f"the first is {broken.stem}: unreadable" in refused


def test_a_path_that_cannot_be_used_is_named(stage, workspace):
    done = stage("contact_sheet", "params.yaml/val-000000.tar", folder=workspace)
    assert "params.yaml/val-000000.tar: Not a directory; check the path and its permissions" in sentence(done)


def test_drawing_over_recorded_clips_is_refused(run, workspace):
    refused = sentence(run("synthesize"))
    assert "data/demo holds files that are not a drawn set" in refused
    assert (workspace / "data/demo/Train_labels.txt").exists()


def test_a_stage_without_what_it_reads_names_the_missing_one(run):
    assert "run the index stage" in sentence(run("split"))
    assert run("index").returncode == 0
    assert "run the split stage" in sentence(run("evaluate"))
    assert run("split").returncode == 0
    for name, missing in (("evaluate", "train"), ("summarize", "evaluate"), ("report", "summarize")):
        assert f"run the {missing} stage" in sentence(run(name))


def test_a_split_or_a_data_set_is_scored_with_a_run_alone(stage, workspace):
    for option in (("--split", "dev"), ("--dataset", "demo")):
        assert "--dataset and --split need --run" in sentence(stage("evaluate", *option, folder=workspace))


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_seed_below_0_is_refused(stage, workspace, name):
    assert "'-1' is not a whole number of 0 or more" in stage(name, "--seed=-1", folder=workspace).stderr


def test_a_run_is_scored_with_its_own_settings_alone(stage, workspace):
    for option in (("--set", "recipe.model.views=1"), ("--params", "other.yaml")):
        done = stage("evaluate", "--run", "run", "--output", "scores", *option, folder=workspace)
        assert "--params and --set do not go with --run" in sentence(done)
    done = stage("evaluate", "--run", "run", "--output", "scores", "--seed", "1", folder=workspace)
    assert "--seed does not go with --run" in sentence(done)


def test_the_result_of_a_run_alone_takes_the_place_of_nothing_else(stage, workspace):
    (workspace / "results/seeds/0").mkdir(parents=True)
    (workspace / "study/mistakes").mkdir(parents=True)
    (workspace / "scores.csv").touch()
    for folder in ("results", "results/seeds/0", "study", "."):
        done = stage("evaluate", "--run", "run", "--output", folder, folder=workspace)
        assert f"--output is {folder}, which holds other things than a result of evaluate --run" in sentence(done)
    done = stage("evaluate", "--run", "run", "--output", "scores.csv", folder=workspace)
    assert "--output is scores.csv, which is a file; name a folder" in sentence(done)


def test_a_model_that_is_named_twice_is_refused(stage, workspace):
    done = stage("predict", "clip.mp4", "--run", "runs/a", "--run", "runs/../runs/a", folder=workspace)
    assert "a folder is named twice with --run; name each once" in sentence(done)


@pytest.mark.parametrize("command", ["predict", "embed", "submit"])
def test_a_clip_is_not_overwritten_by_the_output(stage, workspace, command):
    """Without the check, `predict --output a.mp4 b.mp4` writes over the first clip of the list."""
    (workspace / "clip.MOV").write_text("a clip")
    options = ("--run", "run") if command == "submit" else ()
    done = stage(command, "other.mp4", "--output", "clip.MOV", *options, folder=workspace)
    assert "--output is clip.MOV, which is a clip; name another file" in sentence(done)
    assert (workspace / "clip.MOV").read_text() == "a clip"


def test_an_input_of_any_name_is_not_overwritten_by_the_output(stage, workspace):
    (workspace / "clip").write_text("a clip")
    done = stage("predict", "./clip", "--output", "clip", folder=workspace)
    assert "--output is clip, which is a clip" in sentence(done)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_not_replaced_by_the_cpu(workspace):
    done = started("train", workspace, ACCELERATE_USE_CPU="False")
    assert "ask for a GPU and this machine has none" in sentence(done)


@pytest.mark.slow
def test_a_stage_that_dvc_launches_ends_with_its_own_sentence(workspace):
    command = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]["train"]["cmd"]
    launch_file = str(REPOSITORY / "configs/accelerate/cpu.yaml")
    command = command.replace("configs/accelerate/${launch}.yaml", launch_file).replace("${item.seed}", "0")
    programs = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    programs.pop("OMP_NUM_THREADS", None)  # without it, the launcher would print a hint
    done = subprocess.run(["sh", "-c", command], cwd=workspace, capture_output=True, text=True, env=programs)
    assert done.returncode != 0
    assert "were not passed to" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "is missing; run the extract stage" in done.stderr.splitlines()[-1]  # shards are opened first


@pytest.mark.slow
def test_processes_that_did_not_find_each_other_stop(workspace):
    # What `accelerate launch --multi_gpu` without a GPU gives: a world size in the environment, and no group.
    done = started("train", workspace, WORLD_SIZE="2", RANK="0", LOCAL_RANK="-1")
    assert "2 processes were launched but this one runs in a group of 1" in sentence(done)
