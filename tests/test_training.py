import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from pipeline import training
from pipeline.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.config import parse_config
from pipeline.errors import UserError
from pipeline.evaluation import evaluate_run, load_run, write_evaluation
from pipeline.extraction import extract_splits
from pipeline.manifest import SPLITS, index_split, write_manifest, write_summary
from pipeline.metrics import NOT_SCORED
from pipeline.report import read_predictions, render_report
from pipeline.training import MODEL_NAME, best_row, learning_rate, run_fingerprint, run_training


@pytest.fixture(scope="session")
def workspace(drawn_root, tmp_path_factory):
    """A folder with manifests and shards of the drawn set; one val clip is quarantined."""
    import shutil

    import yaml
    from conftest import REPOSITORY

    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(drawn_root, folder / "data/demo")
    sorted((folder / "data/demo/Val").glob("*.mp4"))[0].write_text("not a video")
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values["recipe"]["training"] |= {"epochs": 2, "batch_size": 3}
    config = parse_config(values, "params.yaml")
    (folder / config.manifests).mkdir(parents=True)
    clips, summaries = {}, {}
    for split in SPLITS:
        clips[split], summaries[split] = index_split(folder / "data/demo", split)
        write_manifest(clips[split], folder / config.manifests / f"{split}.csv")
    extract_splits(clips, folder / "data/demo", folder / config.shards, config.recipe.features, config.extract, 1)
    write_summary(summaries, [], folder / config.manifests)
    return folder, config


@pytest.fixture
def ready(workspace, monkeypatch):
    """The settings, in the workspace."""
    monkeypatch.chdir(workspace[0])
    return workspace[1]


def train(config, folder):
    run_training(config, Accelerator(cpu=True), folder / "run", folder / "checkpoints")
    return load_file(folder / "run" / MODEL_NAME)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_weights_another_seed_others(ready, tmp_path):
    first = train(ready, tmp_path / "a")
    assert equal(first, train(ready, tmp_path / "b"))
    assert not equal(first, train(ready.model_copy(update={"seed": 1}), tmp_path / "c"))


def test_a_run_killed_after_an_epoch_and_resumed_gives_the_same_weights(ready, tmp_path, monkeypatch):
    whole = train(ready, tmp_path / "whole")

    def killed(checkpoint, folder):
        save_checkpoint(checkpoint, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            train(ready, tmp_path / "resumed")
    epochs = []
    original = training.train_epoch
    monkeypatch.setattr(training, "train_epoch", lambda *a: (epochs.append(a[4]), original(*a))[1])
    resumed = train(ready, tmp_path / "resumed")
    assert epochs == [1], "only the second epoch was left to do"
    assert equal(whole, resumed)


def test_another_recipe_seed_data_or_process_count_is_another_run(ready):
    original = run_fingerprint(ready, 1)
    assert run_fingerprint(ready, 1) == original
    assert run_fingerprint(ready, 2) != original
    assert run_fingerprint(ready.model_copy(update={"seed": 5}), 1) != original
    manifest = ready.manifests / "train.csv"
    content = manifest.read_text()
    try:
        manifest.write_text(content.replace("positive", "neutral", 1))
        assert run_fingerprint(ready, 1) != original
    finally:
        manifest.write_text(content)


def test_a_checkpoint_is_read_as_it_was_written_and_older_ones_go(tmp_path):
    tensors = {"a": torch.randn(3)}
    for epochs in (1, 2):
        save_checkpoint(Checkpoint(epochs, [{"epoch": 1.0}], tensors, tensors, {"0.step": torch.tensor(4.0)}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0002"]
    loaded = load_checkpoint(tmp_path)
    assert loaded.epochs == 2
    assert torch.equal(loaded.model["a"], tensors["a"])
    assert loaded.optimizer["0.step"] == 4


def test_a_half_written_checkpoint_is_not_seen(tmp_path):
    (tmp_path / ".epoch-0003.tmp").mkdir()
    assert load_checkpoint(tmp_path) is None


def test_the_learning_rate_rises_then_falls_to_zero(config):
    settings = config.recipe.training.model_copy(update={"warmup": 0.1, "learning_rate": 1.0})
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[99] == pytest.approx(0, abs=1e-9)


def test_the_epoch_is_chosen_by_accuracy_then_log_loss():
    rows = [(1, 0.8, 0.5), (2, 0.9, 0.6), (3, 0.9, 0.4), (4, 0.7, 0.1)]
    history = [{"epoch": e, "selection_accuracy": a, "selection_log_loss": loss} for e, a, loss in rows]
    assert best_row(history)["epoch"] == 3


def test_dev_is_held_out_of_train_and_val_chooses_nothing(ready):
    data = training.load_data(ready)
    kept, held = ({ref.source_id for ref in refs} for refs in (data.training, data.selection))
    assert kept
    assert held
    assert not kept & held
    assert all("train" in ref.shard.name for ref in data.selection)


def test_a_run_that_diverges_is_no_result(ready, tmp_path):
    settings = ready.recipe.training.model_copy(update={"learning_rate": 1.0e30})
    config = ready.model_copy(update={"recipe": ready.recipe.model_copy(update={"training": settings})})
    with pytest.raises(UserError, match=r"lower training\.learning_rate"):
        train(config, tmp_path)


def test_a_batch_that_processes_cannot_share_is_refused(ready, tmp_path):
    accelerator = Accelerator(cpu=True)
    settings = ready.recipe.training.model_copy(update={"batch_size": 500})
    config = ready.model_copy(update={"recipe": ready.recipe.model_copy(update={"training": settings})})
    with pytest.raises(UserError, match=r"batch_size is 500, more than the"):
        run_training(config, accelerator, tmp_path / "run", tmp_path / "checkpoints")


@pytest.fixture
def evaluated(ready, tmp_path):
    train(ready, tmp_path)
    evaluation = evaluate_run(ready, tmp_path / "run", Accelerator(cpu=True))
    write_evaluation(evaluation, tmp_path / "results")
    return evaluation, tmp_path


def test_every_val_clip_is_in_the_result_once_and_a_quarantined_one_is_wrong(evaluated):
    evaluation, folder = evaluated
    lines = (folder / "results/predictions.csv").read_text().splitlines()[1:]
    assert sorted(line.split(",")[0] for line in lines) == sorted(clip.clip_id for clip in evaluation.clips)
    assert len(lines) == 9
    assert evaluation.metrics["clips"] == 9
    assert evaluation.metrics["scored"] == 8
    assert (evaluation.predictions == NOT_SCORED).sum() == 1
    assert evaluation.metrics["accuracy"] == (evaluation.predictions == evaluation.labels).sum() / 9


def test_a_result_says_what_it_comes_from(evaluated, ready):
    evaluation, folder = evaluated
    metrics = json.loads((folder / "results/metrics.json").read_text())
    assert metrics["selected_on"] == "dev"
    assert metrics["label_sha256"] == evaluation.provenance["data"]["val"]["label_sha256"]
    assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
    run = json.loads((folder / "results/provenance.json").read_text())["run"]
    assert run["config"] == ready.model_dump()
    assert {"code_version", "libraries", "device", "seconds", "fingerprint"} <= run.keys()


def test_a_run_of_another_recipe_is_not_evaluated(evaluated, ready):
    other = ready.model_copy(update={"seed": 3})
    with pytest.raises(UserError, match=r"another seed than params\.yaml says"):
        load_run(other, evaluated[1] / "run")


def test_the_report_is_one_page_that_asks_for_nothing(evaluated):
    evaluation, folder = evaluated
    page = render_report(folder / "results", folder / "run")
    for forbidden in ("<script", "<link", "<img", "src=", "@import", "url(http"):
        assert forbidden not in page
    assert f"{100 * evaluation.metrics['accuracy']:.2f}%" in page
    assert page.count("<svg") == 2
    assert evaluation.provenance["quarantined"][0]["clip_id"] in page
    assert "5/9" in page
    labels, predictions = read_predictions(folder / "results/predictions.csv")
    np.testing.assert_array_equal(labels, evaluation.labels)
    np.testing.assert_array_equal(predictions, evaluation.predictions)
