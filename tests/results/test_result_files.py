"""The records of a results folder and of a run; version 1.0.0 wrote other ones."""

import dataclasses
import json
import re
import shutil

import pytest

from pipeline.clips.labels import CLASSES
from pipeline.common.config import RunId
from pipeline.common.errors import UserError
from pipeline.common.records import to_json, write_table
from pipeline.models import later_settings
from pipeline.models.model import GroupEmotionModel
from pipeline.models.run_record import HISTORY_NAME, MODEL_NAME, RUN_NAME, read_run_record
from pipeline.models.runs import open_run, save_tensors
from pipeline.results.result_files import (
    ClassMeasures,
    SourceAccuracy,
    read_class_measures,
    read_metrics,
    read_provenance,
    read_source_accuracies,
    write_class_measures,
)
from pipeline.results.writing import write_evaluation

METRICS = """{
  "accuracy": 0.9851851851851852, "balanced_accuracy": 0.9851851851851853, "macro_f1": 0.9852055333212159,
  "log_loss": 0.08386643444622784, "brier_score": null, "calibration_error": null,
  "accuracy_low": 0.9625338542752435, "accuracy_high": 0.994224122140418,
  "balanced_accuracy_low": 0.9667874853907785, "balanced_accuracy_high": 1.0,
  "macro_f1_low": 0.9669553107222212, "macro_f1_high": 1.0,
  "log_loss_low": 0.0526815365586576, "log_loss_high": 0.12441122758614008,
  "brier_score_low": null, "brier_score_high": null,
  "accuracy_sources_low": 0.9666666666666667, "accuracy_sources_high": 1.0,
  "clips": 270, "scored": 270, "quarantined_share": 0.0, "reproduced": "not applicable", "seed": 0,
  "selected_on": "dev", "selection_accuracy": 0.9861111111111112, "label_sha256": "e086f74e",
  "code_version": "013de4e0b5b3"
}"""
# `config` is added by the fixture.
RUN = """{
  "identity": {"recipe.name": "demo", "recipe.model.video.sha256": null, "the shards of val": "adf8ce0d",
               "number of processes": 1, "recipe.training.learning_rate": 0.001, "threads": 2},
  "fingerprint": "8df94a1a", "resumed_with_changes": [], "parameters": 594643,
  "pretrained": {"video": {"file": "a.safetensors", "sha256": "ab", "matched": ["conv.weight"],
                           "reshaped": {"pos_embed": "1x4 -> 1x2"}, "missing": [], "unexpected": ["head.weight"]}},
  "interfaces": {"audio": {"takes": [64, 551], "mean": [-40.0], "deviation": [20.0], "gives": [35, 1, 512],
                           "stride": 16, "offset": 0.0}},
  "clips": {"training": 648, "selection": 72}, "selected_on": "dev", "selected_epoch": 16,
  "selection_accuracy": 0.9861111111111112, "seconds": 243.9, "processes": 1, "device": "cpu, 2 threads",
  "code_version": "013de4e0b5b3", "python": "3.11.7", "libraries": {"torch": "2.11.0"}, "machine": "Linux x86_64"
}"""
LATER_DATASET_KEYS = {"table": None, "classes": ["positive", "neutral", "negative"], "allow_identical": False}
LATER_SETTINGS = ({"frames": 6, "views": 1, "norm_clips": 8}, later_settings.TRAINING, later_settings.AUGMENTATION)
PROVENANCE = """{
  "data": {
    "train": {"label_file": "Train_labels.txt", "label_sha256": "3caaf5fc", "clips": 720, "sources": 40,
              "class_counts": {"positive": 240, "neutral": 240, "negative": 240}, "bytes": 44001184},
    "val": {"label_file": "Val_labels.txt", "label_sha256": "e086f74e", "clips": 270, "sources": 15,
            "class_counts": {"positive": 90, "neutral": 90, "negative": 90}, "bytes": 16353578},
    "sources_in_both": []
  },
  "clips": {"val": {"extracted": 269, "without_sound": 5, "quarantined": {"unreadable": 1},
                    "duration_s": [3.003, 3.985, 5.0], "frame_rates_hz": [[30.0, 144], [25.0, 72]]}},
  "quarantined": [{"split": "val", "clip_id": "41_1", "reason": "unreadable", "detail": "not a video"}]
}"""


@pytest.fixture
def run_of_1_0_0(values):
    """What `run.json` of version 1.0.0 holds. It has no later settings."""
    for key in ("seeds", "folds", "split_seed", "fit_on"):
        del values[key]
    for key in LATER_DATASET_KEYS:
        del values["dataset"][key]
    del values["execution"]["checkpoint_minutes"]
    values["execution"]["checkpoint_steps"] = 200
    recipe = values["recipe"]
    del recipe["init"]
    for group, settings in zip(groups_of(recipe), LATER_SETTINGS, strict=True):
        for key in settings:
            del group[key]
    return {"config": values | {"seed": 7}, **json.loads(RUN)}


def groups_of(recipe):
    """The groups of a recipe's settings to which later versions added some."""
    training = recipe["training"]
    return recipe["model"], training, training["augmentation"]


@pytest.mark.parametrize(
    ("select_on", "fit_on"), [("dev", "train"), ("val", "train_and_dev"), ("none", "train_and_dev")]
)
def test_a_run_of_version_1_0_0_is_read_as_one_seed_whose_dev_was_held_out_if_it_chose_the_epoch(
    run_of_1_0_0, select_on, fit_on, tmp_path
):
    config = run_of_1_0_0["config"]
    config["recipe"]["training"]["select_on"] = select_on
    (tmp_path / "run.json").write_text(json.dumps(run_of_1_0_0))
    record = read_run_record(tmp_path)
    assert record.run == RunId(7)
    assert record.config.recipe.name == "demo"
    assert record.interfaces["audio"].gives == (35, 1, 512)
    assert record.pretrained["video"].share == 1.0
    assert (record.clips.training, record.clips.selection) == (648, 72)
    del config["seed"]
    config["dataset"] |= LATER_DATASET_KEYS
    config |= {"seeds": [7], "folds": None, "split_seed": 7, "fit_on": fit_on}
    run_of_1_0_0["pretrained"]["video"]["by_order"] = False
    config["recipe"]["init"] = "none"
    del config["execution"]["checkpoint_steps"]
    config["execution"]["checkpoint_minutes"] = 10.0
    for group, settings in zip(groups_of(config["recipe"]), LATER_SETTINGS, strict=True):
        group |= settings
    assert json.loads(to_json(record)) == run_of_1_0_0 | {"run": {"seed": 7, "fold": None}, "initial": None}


HISTORY_OF_1_0_0 = """epoch,step,train_loss,selection_accuracy,selection_log_loss,learning_rate,seconds,data_wait_share
1,3,2.2768306732177734,,,0.0,1.88,0.0031
"""


def test_the_folder_of_a_run_of_version_1_0_0_is_opened(run_of_1_0_0, tmp_path):
    (tmp_path / RUN_NAME).write_text(json.dumps(run_of_1_0_0))
    (tmp_path / HISTORY_NAME).write_text(HISTORY_OF_1_0_0)
    config = read_run_record(tmp_path).config
    model = GroupEmotionModel(config.recipe.model, config.recipe.features, config.dataset.classes)
    save_tensors(model.state_dict(), tmp_path / MODEL_NAME)
    run = open_run(tmp_path)
    assert [(epoch.train_loss, epoch.data_wait_share) for epoch in run.history] == [(2.2768306732177734, 0.0031)]
    assert run.model.labels == tuple(CLASSES)


def test_a_run_of_a_version_whose_models_took_all_frames_in_one_view_is_read_alone_and_in_a_result(finished, tmp_path):
    write_evaluation(finished[1], tmp_path)
    record, provenance = read_run_record(finished[0]), read_provenance(tmp_path)
    shutil.copy(finished[0] / "run.json", tmp_path)
    for name in ("run.json", "provenance.json"):
        text = (tmp_path / name).read_text()
        earlier = re.sub(r'"frames": 6,\s*"views": 1,\s*', "", text)
        assert earlier != text
        (tmp_path / name).write_text(earlier)
    assert read_run_record(tmp_path) == record
    assert read_provenance(tmp_path) == provenance


def test_results_of_version_1_0_0_are_refused_with_what_to_do(run_of_1_0_0, tmp_path):
    (tmp_path / "metrics.json").write_text(METRICS)
    (tmp_path / "provenance.json").write_text(json.dumps(json.loads(PROVENANCE) | {"run": run_of_1_0_0}))
    with pytest.raises(UserError, match=r"metrics\.json is damaged or of another version .* run the summarize stage"):
        read_metrics(tmp_path)
    with pytest.raises(UserError, match=r"provenance\.json is damaged or of another version .* run the evaluate stage"):
        read_provenance(tmp_path)


def test_the_table_of_classes_has_a_column_named_class(tmp_path):
    rows = [ClassMeasures("neutral", 3, 0.5, 0.25, 0.125, None, None, 0.0, 1.0, None, None)]
    write_class_measures(rows, tmp_path / "per_class.csv")
    header, row = (tmp_path / "per_class.csv").read_text().splitlines()
    assert header == (
        "class,clips,precision,recall,f1,precision_low,precision_high,recall_low,recall_high,f1_low,f1_high"
    )
    assert row == "neutral,3,0.5,0.25,0.125,,,0.0,1.0,,"
    assert read_class_measures(tmp_path) == rows


def test_source_ids_that_look_like_numbers_stay_text(tmp_path):
    rows = [SourceAccuracy(name, 3, 0.5) for name in ("12_3", "007", "nan")]
    write_table(SourceAccuracy, rows, tmp_path / "per_source.csv")
    assert read_source_accuracies(tmp_path) == rows


@pytest.mark.parametrize(
    "damage", [lambda text: "{", lambda text: "{}", lambda text: text.replace('"clips": 9', '"clips": "nine"')]
)
def test_a_damaged_file_is_named(finished, damage, tmp_path):
    write_evaluation(finished[1], tmp_path)
    path = tmp_path / "metrics.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=r"metrics\.json is damaged or of another version .*; run the summarize stage"):
        read_metrics(tmp_path)


def test_a_record_cannot_be_changed(finished, tmp_path):
    with pytest.raises(dataclasses.FrozenInstanceError):
        write_evaluation(finished[1], tmp_path).accuracy = 1.0
