import contextlib
import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import get_args

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from pipeline.clips.manifest import sha256_of
from pipeline.common.config import Fusion, Model
from pipeline.common.errors import Stopped, UserError
from pipeline.common.machine import alone_in
from pipeline.models.model import GroupEmotionModel
from pipeline.models.runs import HISTORY_NAME, LAST_MODEL_NAME, MODEL_NAME, RUN_NAME
from pipeline.models.scoring import score_clips
from pipeline.results.evaluation import evaluate_run, write_evaluation
from pipeline.results.report import render_report
from pipeline.training import loop as training
from pipeline.training.checkpoint import latest_step
from pipeline.training.distributed import start_accelerator
from pipeline.training.loop import best_row, ran_out_of_patience, run_training


@pytest.fixture
def ready(workspace, monkeypatch):
    """The settings, in the workspace."""
    monkeypatch.chdir(workspace[0])
    return workspace[1]


def changed(config, **settings):
    """The same settings with other ones of recipe.training."""
    training = config.recipe.training.model_copy(update=settings)
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"training": training})})


def without_dropout(config):
    model = config.recipe.model.model_copy(update={"dropout": 0.0})
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"model": model})})


def checkpointed(config, steps):
    return config.model_copy(update={"execution": config.execution.model_copy(update={"checkpoint_steps": steps})})


def train(config, folder, resume="exact"):
    run_training(config, Accelerator(cpu=True), folder / "run", folder / "checkpoints", resume)
    return load_file(folder / "run" / MODEL_NAME) | {
        f"last.{name}": value for name, value in load_file(folder / "run" / LAST_MODEL_NAME).items()
    }


def history(folder):
    """A run's history without what a clock says."""
    rows = [json.loads(json.dumps(row)) for row in csv.DictReader((folder / "run" / HISTORY_NAME).open())]
    return [{key: row[key] for key in row if key not in ("seconds", "data_wait_share")} for row in rows]


def measured(folder):
    """The losses of all epochs, in training and on the selecting clips."""
    names = ("train_loss", "selection_accuracy", "selection_log_loss")
    return [float(row[name]) for row in history(folder) for name in names]


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_weights_another_seed_others(ready, tmp_path):
    first = train(ready, tmp_path / "a")
    assert equal(first, train(ready, tmp_path / "b"))
    assert not equal(first, train(ready.model_copy(update={"seed": 1}), tmp_path / "c"))


class Killed(BaseException):
    """As sudden as SIGKILL: nothing below the test catches it."""


def interrupt(monkeypatch, step, act):
    """Call `act` as a step begins."""
    original = training.learning_rate
    calls = []

    def learning_rate(now, *rest):
        if now == step and not calls:
            calls.append(now)
            act()
        return original(now, *rest)

    monkeypatch.setattr(training, "learning_rate", learning_rate)


def kill():
    raise Killed


@pytest.fixture(scope="module")
def uninterrupted(workspace, tmp_path_factory):
    """A run of six steps with all that has a state: its settings, its weights and its folder."""
    config = checkpointed(changed(workspace[1], ema_decay=0.5, micro_batches=2), 1)
    folder = tmp_path_factory.mktemp("uninterrupted")
    with contextlib.chdir(workspace[0]):
        return config, train(config, folder), folder


@pytest.mark.parametrize("step", range(6))
def test_a_run_killed_at_any_step_and_resumed_gives_the_same_weights(ready, uninterrupted, tmp_path, monkeypatch, step):
    config, whole, folder = uninterrupted
    with monkeypatch.context() as patch:
        interrupt(patch, step, kill)
        with pytest.raises(Killed):
            train(config, tmp_path / "resumed")
    steps = []
    interrupt(monkeypatch, 5, lambda: steps.append(5))
    monkeypatch.setattr(training, "seed_dropout", count_calls(training.seed_dropout, steps))
    assert equal(whole, train(config, tmp_path / "resumed"))
    assert history(tmp_path / "resumed") == history(folder)
    assert len(steps) == 6 - step + 1, "no step was done twice"


def count_calls(function, calls):
    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counted


def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(ready, tmp_path, monkeypatch):
    config = checkpointed(ready, 1)
    whole = train(config, tmp_path / "whole")
    original = Path.replace
    saved = []

    def replace(path, target):
        if path.suffix == ".tmp":
            saved.append(path)
            if len(saved) == 3:
                raise Killed
        return original(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(Killed):
            train(config, tmp_path / "resumed")
    assert sorted(path.name for path in (tmp_path / "resumed/checkpoints").iterdir()) == [
        ".step-00000003.tmp",
        "step-00000002",
    ]
    assert equal(whole, train(config, tmp_path / "resumed"))


@pytest.mark.parametrize("step", [1, 2])
def test_sigterm_saves_the_step_and_the_same_command_goes_on(ready, tmp_path, monkeypatch, step):
    whole = train(ready, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped, match="saved after"):
            train(ready, tmp_path / "resumed")
    assert latest_step(tmp_path / "resumed/checkpoints") == step + 1
    assert equal(whole, train(ready, tmp_path / "resumed"))


@pytest.fixture
def unfinished(ready, tmp_path, monkeypatch):
    """A folder with a run that was stopped after its second step."""
    with monkeypatch.context() as patch:
        interrupt(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            train(ready, tmp_path)
    return tmp_path


def test_an_unfinished_run_of_something_else_is_not_continued(ready, unfinished):
    other = changed(ready, weight_decay=0.5).model_copy(update={"seed": 7})
    with pytest.raises(UserError) as refused:
        train(other, unfinished)
    assert "recipe.training.weight_decay: 0.05 -> 0.5; seed: 0 -> 7" in str(refused.value)
    assert "--resume afresh" in str(refused.value)
    assert "--resume changed" in str(refused.value)


def test_changed_data_code_and_processes_are_changes(ready, unfinished, monkeypatch):
    manifest = ready.manifests / "train.csv"
    content = manifest.read_text()
    try:
        manifest.write_text(content.replace("positive", "neutral", 1))
        with pytest.raises(UserError, match=r"the manifest of train: [0-9a-f]{12}"):
            train(ready, unfinished)
    finally:
        manifest.write_text(content)
    with monkeypatch.context() as patch:
        patch.setattr(training, "source_digest", lambda: "another")
        with pytest.raises(UserError, match=r"code: [0-9a-f]{12}\.\.\. -> another"):
            train(ready, unfinished)
    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "num_processes", 2)
        with pytest.raises(UserError, match="number of processes: 1 -> 2"):
            training.restore(training.start_run(ready, Accelerator(cpu=True), unfinished / "checkpoints"), "exact")


def test_a_changed_run_goes_on_or_starts_afresh_when_told_so(ready, unfinished, tmp_path_factory):
    other = changed(ready, weight_decay=0.5)
    afresh = train(other, tmp_path_factory.mktemp("whole"))
    copy = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(unfinished, copy)
    assert equal(afresh, train(other, copy, resume="afresh"))
    assert not equal(afresh, train(other, unfinished, resume="changed"))
    run = json.loads((unfinished / "run" / RUN_NAME).read_text())
    assert run["resumed_with_changes"] == ["recipe.training.weight_decay: 0.05 -> 0.5"]


def test_what_a_run_was_changed_in_is_not_forgotten_when_it_is_resumed_again(ready, unfinished, monkeypatch):
    other = changed(ready, weight_decay=0.5)
    with monkeypatch.context() as patch:
        interrupt(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            train(other, unfinished, resume="changed")
    train(other, unfinished)
    run = json.loads((unfinished / "run" / RUN_NAME).read_text())
    assert run["resumed_with_changes"] == ["recipe.training.weight_decay: 0.05 -> 0.5"]


def test_another_number_of_steps_an_epoch_cannot_be_continued_with(ready, unfinished):
    with pytest.raises(UserError, match="a run with 3 steps an epoch, there are 6 now"):
        train(changed(ready, batch_size=1), unfinished, resume="changed")


def test_fewer_epochs_than_are_done_end_the_run(ready, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            train(ready, tmp_path)
    train(changed(ready, epochs=1), tmp_path, resume="changed")
    assert len(history(tmp_path)) == 1


def test_a_gradient_that_is_no_number_ends_the_run_before_it_is_saved(ready, tmp_path, monkeypatch):
    clip = Accelerator.clip_grad_norm_
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", lambda *a: clip(*a) * float("nan"))
    with pytest.raises(UserError, match="the loss is nan at step 1"):
        train(checkpointed(ready, 1), tmp_path)
    assert latest_step(tmp_path / "checkpoints") is None


def test_scoring_takes_no_more_clips_at_a_time_than_training(ready, tmp_path, monkeypatch):
    sizes = []
    original = GroupEmotionModel.forward
    monkeypatch.setattr(
        GroupEmotionModel, "forward", lambda self, batch: (sizes.append(len(batch.labels)), original(self, batch))[1]
    )
    train(changed(ready, batch_size=6, micro_batches=3, epochs=1), tmp_path)
    assert max(sizes) == 2


def test_a_checkpoint_of_another_network_is_named(ready, unfinished):
    model = ready.recipe.model.model_copy(update={"width": 32})
    other = ready.model_copy(update={"recipe": ready.recipe.model_copy(update={"model": model})})
    with pytest.raises(UserError, match="is of another network"):
        train(other, unfinished, resume="changed")


def test_a_finished_run_is_never_continued(ready, tmp_path, monkeypatch):
    train(ready, tmp_path)
    calls = []
    monkeypatch.setattr(training, "seed_dropout", count_calls(training.seed_dropout, calls))
    train(ready, tmp_path)
    assert len(calls) == 6, "all steps of the two epochs"


def test_two_runs_do_not_share_a_folder(ready, tmp_path):
    with alone_in(tmp_path / "checkpoints", "training"), pytest.raises(UserError, match="another training is writing"):
        train(ready, tmp_path)


def test_a_damaged_checkpoint_is_named(ready, unfinished):
    (unfinished / "checkpoints/step-00000002/model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"step-00000002 cannot be read .*to start afresh"):
        train(ready, unfinished)


def test_micro_batches_change_the_memory_and_not_the_losses(ready, tmp_path, monkeypatch):
    config = without_dropout(changed(ready, batch_size=4))
    clip, norms = Accelerator.clip_grad_norm_, []
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", lambda *a: (norms.append(clip(*a)), norms[-1])[1])
    train(config, tmp_path / "whole")
    expected, steps = torch.stack(norms), len(norms)
    for parts in (2, 4):
        train(changed(config, micro_batches=parts), tmp_path / str(parts))
        assert measured(tmp_path / str(parts)) == pytest.approx(measured(tmp_path / "whole"), abs=1e-5)
        torch.testing.assert_close(torch.stack(norms[-steps:]), expected, rtol=1e-3, atol=1e-5)


def test_a_run_without_a_better_epoch_for_long_enough_ends():
    rows = [{"epoch": e, "selection_accuracy": a, "selection_log_loss": 1.0} for e, a in enumerate((0.5, 0.9, 0.8), 1)]
    assert not ran_out_of_patience([], 1)
    assert not ran_out_of_patience(rows, 0)
    assert not ran_out_of_patience(rows, 2)
    assert ran_out_of_patience(rows, 1)


def test_early_stopping_ends_the_run(ready, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(
        training,
        "selection_measures",
        lambda *_: {"selection_accuracy": next(scores), "selection_log_loss": 1.0},
    )
    train(changed(ready, epochs=50, patience=2), tmp_path)
    assert [row["epoch"] for row in history(tmp_path)] == ["1", "2", "3", "4"]


def test_the_weights_of_the_chosen_epoch_are_kept_and_those_of_the_last(ready, tmp_path, monkeypatch):
    accuracies, ends = iter([0.2, 0.9, 0.5]), []

    def measure(*_):
        return {"selection_accuracy": next(accuracies), "selection_log_loss": 1.0}

    def score(model, *rest):
        ends.append(training.weights_of(model))
        return score_clips(model, *rest)

    monkeypatch.setattr(training, "selection_measures", measure)
    monkeypatch.setattr(training, "score_clips", score)
    train(changed(ready, epochs=3), tmp_path)
    assert equal(load_file(tmp_path / "run" / MODEL_NAME), ends[1])
    assert equal(load_file(tmp_path / "run" / LAST_MODEL_NAME), ends[2])


def test_the_moving_average_is_what_is_scored_and_kept(ready, tmp_path, monkeypatch):
    config = changed(ready, ema_decay=0.9, epochs=1)
    seen, scored = [], []
    original = training.optimization_step

    def step(run, *rest):
        loss = original(run, *rest)
        seen.append({name: value.clone() for name, value in run.model.state_dict().items()})
        return loss

    monkeypatch.setattr(training, "optimization_step", step)
    score = training.score_clips
    monkeypatch.setattr(training, "score_clips", lambda model, *rest: (scored.append(model), score(model, *rest))[1])
    kept = train(config, tmp_path)
    expected = seen[0]
    for weights in seen[1:]:
        expected = {name: 0.9 * expected[name] + 0.1 * weights[name] for name in expected}
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value)
        torch.testing.assert_close(scored[0].state_dict()[name], value)


@pytest.mark.slow
def test_trackers_hear_of_each_epoch_also_when_the_run_is_resumed(ready, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = {"trackers": ["tensorboard", "dvclive"]}
    config = ready.model_copy(update={"execution": ready.execution.model_copy(update=trackers)})
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with monkeypatch.context() as patch:
        interrupt(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        accelerator = start_accelerator(config)
        with pytest.raises(Stopped):
            run_training(config, accelerator, tmp_path / "run", tmp_path / "checkpoints")
        accelerator.end_training()
    accelerator = start_accelerator(config)
    run_training(config, accelerator, tmp_path / "run", tmp_path / "checkpoints")
    accelerator.end_training()
    run = json.loads((tmp_path / "run" / RUN_NAME).read_text())
    folder = Path("logs") / run["fingerprint"][:12]
    expected = pytest.approx([float(row["train_loss"]) for row in history(tmp_path)], rel=1e-5)
    assert [event.value for event in EventAccumulator(str(folder / "demo")).Reload().Scalars("train_loss")] == expected
    with (folder / "dvclive/plots/metrics/train_loss.tsv").open(newline="") as file:
        assert [float(row["train_loss"]) for row in csv.DictReader(file, delimiter="\t")] == expected


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_precision_and_memory_format_are_settings(ready, tmp_path, precision, channels_last):
    AcceleratorState._reset_state(reset_partial_state=True)
    config = changed(ready, mixed_precision=precision, channels_last=channels_last, epochs=1)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    run_training(config, accelerator, tmp_path / "run", tmp_path / "checkpoints")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "run" / MODEL_NAME).values())


@pytest.mark.slow  # the compiler takes its time
@pytest.mark.timeout(600)
def test_a_compiled_model_learns_the_same(ready, tmp_path):
    model = ready.recipe.model.model_copy(update={"dropout": 0.0, "fusion": "video"})
    recipe = ready.recipe.model_copy(update={"model": model})
    config = changed(ready.model_copy(update={"recipe": recipe}), epochs=1)
    train(config, tmp_path / "eager")
    torch._dynamo.utils.counters.clear()
    train(changed(config, compile=True), tmp_path / "compiled")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert measured(tmp_path / "compiled") == pytest.approx(measured(tmp_path / "eager"), abs=1e-4)


def test_batches_in_which_no_clip_has_audio_or_video_train_without_nan(ready, tmp_path):
    for dropped in ("drop_audio", "drop_video"):
        augmentation = ready.recipe.training.augmentation.model_copy(update={dropped: 0.999999})
        weights = train(changed(ready, augmentation=augmentation), tmp_path / dropped)
        assert all(value.isfinite().all() for value in weights.values())


def test_the_epoch_is_chosen_by_accuracy_then_log_loss():
    rows = [(1, 0.8, 0.5), (2, 0.9, 0.6), (3, 0.9, 0.4), (4, 0.7, 0.1)]
    history = [{"epoch": e, "selection_accuracy": a, "selection_log_loss": loss} for e, a, loss in rows]
    assert best_row(history)["epoch"] == 3
    assert best_row([{"epoch": 0}, *history])["epoch"] == 3  # the first one was not scored
    assert best_row([*history, {"epoch": 5}])["epoch"] == 5  # it is no longer scored


def test_dev_is_held_out_of_train_and_val_chooses_nothing(ready):
    data = training.load_data(ready)
    kept, held = ({ref.source_id for ref in refs} for refs in (data.training, data.selection))
    assert kept
    assert held
    assert not kept & held
    assert all("train" in ref.file.path.name for ref in data.selection)


def test_with_nothing_to_choose_on_all_of_train_is_trained_on_and_the_last_epoch_kept(ready, tmp_path):
    config = changed(ready, select_on="none")
    assert len(training.load_data(config).training) == 9
    weights = train(config, tmp_path)
    assert all(torch.equal(value, weights[f"last.{name}"]) for name, value in weights.items() if "last." not in name)
    record = json.loads((tmp_path / "run" / RUN_NAME).read_text())
    assert (record["selected_on"], record["selected_epoch"], record["clips"]["selection"]) == ("none", 2, 0)
    evaluation = evaluate_run(config, tmp_path / "run", Accelerator(cpu=True))
    write_evaluation(evaluation, tmp_path / "results")
    page = render_report(tmp_path / "results", tmp_path / "run")
    assert "No epoch was chosen" in page
    assert page.count("<svg") == 3


def with_backbones(config, model=(), **settings):
    """The same settings with other ones of both backbones, and of recipe.model."""
    values = config.recipe.model.model_dump() | dict(model)
    values |= {name: values[name] | settings for name in ("video", "audio")}
    recipe = config.recipe.model_copy(update={"model": Model.model_validate(values)})
    return config.model_copy(update={"recipe": recipe})


@pytest.fixture
def pretrained(ready, tmp_path_factory):
    """The weights of a finished run."""
    folder = tmp_path_factory.mktemp("pretrained")
    train(ready, folder)
    return folder / "run" / MODEL_NAME


def test_training_starts_from_the_weights_of_a_file_and_says_so(ready, pretrained, tmp_path, capsys):
    config = with_backbones(ready, weights=str(pretrained))
    run = training.start_run(config, Accelerator(cpu=True), tmp_path / "checkpoints")
    given = load_file(pretrained)
    backbones = [name for name in given if name.startswith("networks.")]
    assert len(backbones) == 21
    assert all(torch.equal(run.model.state_dict()[name], given[name]) for name in backbones)
    assert "video: 9 of 9 tensors from" in capsys.readouterr().out
    train(config, tmp_path)
    record = json.loads((tmp_path / "run" / RUN_NAME).read_text())
    assert record["pretrained"]["audio"]["sha256"] == sha256_of(pretrained)
    assert len(record["pretrained"]["audio"]["matched"]) == 12
    assert record["identity"]["the pretrained weights of video"] == sha256_of(pretrained)


def test_other_pretrained_weights_are_another_run(ready, pretrained, tmp_path, monkeypatch):
    config = with_backbones(checkpointed(ready, 1), weights=str(pretrained))
    with monkeypatch.context() as patch:
        interrupt(patch, 2, kill)
        with pytest.raises(Killed):
            train(config, tmp_path)
    save_file({name: value + 1 for name, value in load_file(pretrained).items()}, pretrained)
    with pytest.raises(UserError, match="the pretrained weights of video"):
        train(config, tmp_path)


def test_frozen_backbones_stay_as_they_were_loaded_and_the_rest_learns(ready, pretrained, tmp_path):
    config = with_backbones(ready, {"freeze_backbones": True}, weights=str(pretrained))
    weights, given = train(config, tmp_path), load_file(pretrained)
    moved = {name for name in given if not torch.equal(weights[name], given[name])}
    assert moved
    assert all(name.startswith("fusion.") for name in moved)


def test_frozen_batch_norms_keep_their_statistics(ready, features):
    frozen = {"freeze_backbones": True, "fusion": "audio"}
    model = with_backbones(ready, frozen, name="resnet18", weights="resnet18.pth").recipe.model
    network = GroupEmotionModel(model, features).train()
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    network.backbones()["audio"](torch.randn(2, features.mel_bins, features.max_mel_frames))
    assert before
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


@pytest.mark.slow
def test_every_fusion_trains_and_is_scored(ready, tmp_path):
    for fusion in get_args(Fusion):
        config = with_backbones(changed(ready, epochs=1), {"fusion": fusion})
        train(config, tmp_path / fusion)
        evaluation = evaluate_run(config, tmp_path / fusion / "run", Accelerator(cpu=True))
        assert evaluation.metrics["scored"] == 8


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
