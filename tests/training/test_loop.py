"""The training loop: what it learns from, keeps and reports."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers import FUSIONS, write_whole_result
from safetensors.torch import load_file
from short_trainings import (
    count_calls,
    equal,
    history,
    interrupt,
    losses,
    terminate,
    train,
    train_and_evaluate,
    with_model,
    with_training,
)

from pipeline.common.accelerator import start_accelerator
from pipeline.common.config import RunId
from pipeline.common.errors import Stopped, UserError
from pipeline.loading import batch as batches
from pipeline.loading import loader
from pipeline.loading.selection import select_clips
from pipeline.models.model import GroupEmotionModel
from pipeline.models.run_record import LAST_MODEL_NAME, LOG_NAME, MODEL_NAME, RUN_NAME
from pipeline.models.scoring import Scorer
from pipeline.results.report import render_report
from pipeline.training import loop
from pipeline.training.loop import train_model
from pipeline.training.state import weights_of


@pytest.fixture
def augmented(monkeypatch):
    """The batches that the loop augments and the settings of each, as it trains."""
    calls, augment = [], loop.augment
    monkeypatch.setattr(
        loop, "augment", lambda batch, *rest: (calls.append((batch, rest[0])), augment(batch, *rest))[1]
    )
    return calls


def test_the_same_seed_gives_the_same_weights_another_seed_others(ready, tmp_path):
    first = train(ready, tmp_path / "a")
    assert equal(first, train(ready, tmp_path / "b"))
    assert not equal(first, train(ready.model_copy(update={"seeds": [1]}), tmp_path / "c"))


def test_a_training_ends_when_no_gradient_is_finite_any_more(ready, tmp_path, monkeypatch):
    clip = loop.clip_gradients
    monkeypatch.setattr(loop, "clip_gradients", lambda *a: (clip(*a)[0] * float("nan"), torch.zeros(2)))
    with pytest.raises(UserError, match=r"the gradient was not finite in 3 steps in a row, up to step 3: lower recipe"):
        train(ready, tmp_path)


def poison(monkeypatch, steps):
    """Make the sound of some steps, from 0, NaN."""
    calls, augment = [], loop.augment

    def poisoned(batch, *rest):
        calls.append(batch)
        nan = torch.full_like(batch.log_mel, float("nan"))
        return augment(dataclasses.replace(batch, log_mel=nan) if len(calls) - 1 in steps else batch, *rest)

    monkeypatch.setattr(loop, "augment", poisoned)


def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_is_counted(ready, tmp_path, monkeypatch):
    config = with_training(ready, ema_decay=0.5)
    poison(monkeypatch, {0, 1, 3, 4})  # of three steps per epoch; three in a row would end the training
    weights = train(config, tmp_path)
    assert all(value.isfinite().all() for value in weights.values())
    assert [row["skipped_steps"] for row in history(tmp_path)] == ["2", "2"]
    assert all(math.isfinite(float(row["train_loss"])) for row in history(tmp_path))
    assert "2 steps skipped" in (tmp_path / "run" / LOG_NAME).read_text()


def test_scoring_takes_no_more_clips_at_a_time_than_training(ready, tmp_path, monkeypatch):
    sizes = []
    original = GroupEmotionModel.forward
    monkeypatch.setattr(
        GroupEmotionModel, "forward", lambda self, batch: (sizes.append(len(batch.labels)), original(self, batch))[1]
    )
    train(with_training(ready, batch_size=6, micro_batches=3, epochs=1), tmp_path)
    assert max(sizes) == 2


def test_training_decodes_only_the_frames_that_the_model_takes(ready, tmp_path, monkeypatch):
    config, decoded, taken = with_model(ready, frames=2), [], []
    monkeypatch.setattr(batches, "decode_jpeg", count_calls(batches.decode_jpeg, decoded))
    tokens = GroupEmotionModel.tokens
    monkeypatch.setattr(
        GroupEmotionModel, "tokens", lambda self, batch: (taken.append(batch.frame_times_s), tokens(self, batch))[1]
    )
    train(config, tmp_path)
    clips = [times_s for batch in taken for times_s in batch]
    assert {len(times_s) for times_s in clips} == {2}
    assert len(decoded) == 2 * len(clips)


def test_micro_batches_change_the_memory_and_not_the_losses(ready, tmp_path, monkeypatch):
    config = with_model(with_training(ready, batch_size=4), dropout=0.0)
    clip, norms = loop.clip_gradients, []
    monkeypatch.setattr(loop, "clip_gradients", lambda *a: (norms.append(clip(*a)), norms[-1])[1])
    train(config, tmp_path / "whole")
    expected, steps = torch.stack([total for total, _ in norms]), len(norms)
    for parts in (2, 4):
        train(with_training(config, micro_batches=parts), tmp_path / str(parts))
        assert losses(tmp_path / str(parts)) == pytest.approx(losses(tmp_path / "whole"), rel=1e-5, abs=1e-5)
        torch.testing.assert_close(torch.stack([total for total, _ in norms[-steps:]]), expected, rtol=1e-3, atol=1e-5)


def test_the_small_network_trains_on_log_mels_that_end_soon_after_the_longest_clip(
    ready, tmp_path, monkeypatch, augmented
):
    monkeypatch.setattr(loader, "LENGTH_STEP_S", 0.1)
    train(ready, tmp_path / "run")
    assert max(batch.log_mel.shape[-1] for batch, _ in augmented) < ready.recipe.features.max_mel_frames


def test_mixup_trains_on_pairs_and_refuses_micro_batches_that_break_them(ready, tmp_path):
    augmentation = ready.recipe.training.augmentation.model_copy(update={"mixup_alpha": 0.4})
    mixed = with_training(ready, augmentation=augmentation)
    assert not equal(train(ready, tmp_path / "plain"), train(mixed, tmp_path / "mixed"))
    with pytest.raises(
        UserError, match=r"batch_size is 2, expected a multiple of 4: .* times 2 clips that stay together"
    ):
        train(with_training(mixed, micro_batches=2), tmp_path / "broken")


def test_early_stopping_ends_the_training(ready, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(loop, "selection_measures", lambda *_: (next(scores), 1.0))
    train(with_training(ready, epochs=50, patience=2), tmp_path)
    assert [row["epoch"] for row in history(tmp_path)] == ["1", "2", "3", "4"]


def test_the_weights_of_the_chosen_epoch_are_kept_and_those_of_the_last(ready, tmp_path, monkeypatch):
    accuracies, ends, original = iter([0.2, 0.9, 0.5]), [], Scorer.score

    def measure(*_):
        return next(accuracies), 1.0

    def score(self, *rest):
        ends.append(weights_of(self.model))
        return original(self, *rest)

    monkeypatch.setattr(loop, "selection_measures", measure)
    monkeypatch.setattr(Scorer, "score", score)
    train(with_training(ready, epochs=3), tmp_path)
    assert equal(load_file(tmp_path / "run" / MODEL_NAME), ends[1])
    assert equal(load_file(tmp_path / "run" / LAST_MODEL_NAME), ends[2])


@pytest.mark.parametrize(("ema_warmup", "decays"), [(False, [0.9, 0.9]), (True, [2 / 11, 3 / 12])])
def test_the_moving_average_is_what_is_scored_and_kept(ema_warmup, decays, ready, tmp_path, monkeypatch):
    config = with_training(ready, ema_decay=0.9, ema_warmup=ema_warmup, epochs=1)
    seen, scored = [], []
    take_step, score = loop.optimization_step, Scorer.score

    def step(training, *rest):
        loss = take_step(training, *rest)
        seen.append({name: value.clone() for name, value in training.state.model.state_dict().items()})
        return loss

    monkeypatch.setattr(loop, "optimization_step", step)
    monkeypatch.setattr(Scorer, "score", lambda self, *rest: (scored.append(self.model), score(self, *rest))[1])
    kept = train(config, tmp_path)
    expected = seen[0]
    for decay, weights in zip(decays, seen[1:], strict=True):
        expected = {name: decay * expected[name] + (1 - decay) * weights[name] for name in expected}
    for name in (name for name in expected if not name.endswith("num_batches_tracked")):
        value = expected[name]
        torch.testing.assert_close(kept[name], value)
        torch.testing.assert_close(scored[0].state_dict()[name], value)


@pytest.mark.slow
def test_trackers_get_each_epoch_also_when_the_training_is_resumed(ready, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = {"trackers": ["tensorboard", "dvclive"]}
    config = ready.model_copy(update={"execution": ready.execution.model_copy(update=trackers)})
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with monkeypatch.context() as patch:
        interrupt(patch, 4, terminate)
        accelerator = start_accelerator(config)
        with pytest.raises(Stopped):
            train_model(config, RunId(0), accelerator, tmp_path / "run", tmp_path / "checkpoints")
    accelerator = start_accelerator(config)
    train_model(config, RunId(0), accelerator, tmp_path / "run", tmp_path / "checkpoints")
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
    config = with_training(ready, mixed_precision=precision, channels_last=channels_last, epochs=1)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    train_model(config, RunId(0), accelerator, tmp_path / "run", tmp_path / "checkpoints")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "run" / MODEL_NAME).values())


@pytest.mark.slow  # the compiler takes its time
@pytest.mark.timeout(600)
def test_a_compiled_model_learns_the_same(ready, tmp_path):
    config = with_training(with_model(ready, dropout=0.0, use=["scene"]), epochs=1)
    train(config, tmp_path / "eager")
    torch._dynamo.utils.counters.clear()
    train(with_training(config, compile=True), tmp_path / "compiled")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), abs=1e-4)


def test_batches_in_which_no_clip_has_sound_or_pictures_train_without_nan(ready, tmp_path):
    for shares in ({"scene": 0.999999, "sound": 0.0}, {"scene": 0.0, "sound": 0.999999}):
        augmentation = ready.recipe.training.augmentation.model_copy(update={"drop": shares})
        weights = train(with_training(ready, augmentation=augmentation), tmp_path / str(shares["scene"]))
        assert all(value.isfinite().all() for value in weights.values())


def test_without_a_selection_split_all_of_train_is_trained_on_and_the_last_epoch_is_kept(split_workspace, tmp_path):
    config = split_workspace(select_on="none", fit_on="train_and_dev")
    assert len(select_clips(config).training) == 9
    weights = train(config, tmp_path)
    assert all(torch.equal(value, weights[f"last.{name}"]) for name, value in weights.items() if "last." not in name)
    record = json.loads((tmp_path / "run" / RUN_NAME).read_text())
    assert (record["selected_on"], record["selected_epoch"], record["clips"]["selection"]) == ("none", 2, 0)
    write_whole_result(config.results, train_and_evaluate(config))
    page = render_report(config.results, [0])
    assert "No epoch was chosen" in page
    assert page.count("<svg") == 5


@pytest.mark.slow
def test_every_fusion_trains_and_is_scored(split_workspace):
    config = with_training(split_workspace(), epochs=1)
    for kind in FUSIONS.values():
        evaluation = train_and_evaluate(with_model(config, **kind))
        assert evaluation.predictions.scored.sum() == 8


def test_a_second_network_on_the_frames_is_a_third_stream(split_workspace):
    streams = split_workspace().recipe.model.streams
    config = with_model(split_workspace(), streams={**streams, "motion": streams["scene"]}, use=[*streams, "motion"])
    shares = {"scene": 0.2, "sound": 0.2, "motion": 0.2}
    augmentation = config.recipe.training.augmentation.model_copy(update={"drop": shares})
    evaluation = train_and_evaluate(with_training(config, epochs=1, augmentation=augmentation))
    assert evaluation.predictions.scored.sum() == 8
    assert {point.stream for point in evaluation.stream_curves} == {"scene", "sound", "motion"}


def test_a_training_that_diverges_gives_no_result(ready, tmp_path):
    with pytest.raises(UserError, match=r"lower recipe\.training\.learning_rate"):
        train(with_training(ready, learning_rate=1.0e30), tmp_path)


def test_a_batch_larger_than_the_training_clips_is_refused(ready, tmp_path):
    with pytest.raises(UserError, match=r"batch_size is 500, more than the"):
        train(with_training(ready, batch_size=500), tmp_path)


def with_drop(config, scene, sound, **settings):
    """The same settings, trained on with some shares of the clips without a stream."""
    changes = {"drop": {"scene": scene, "sound": sound}, **settings}
    return with_training(config, augmentation=config.recipe.training.augmentation.model_copy(update=changes))


def test_the_dropout_of_streams_falls_to_its_last_share(ready):
    settings = with_drop(ready, 0.4, 0.2, drop_final=0.5).recipe.training.augmentation
    shares = [settings.after(done).drop for done in (0.0, 0.5, 1.0)]
    expected = [{"scene": scene, "sound": scene / 2} for scene in (0.4, 0.3, 0.2)]
    assert shares == [pytest.approx(each) for each in expected]


def test_each_step_hides_streams_by_its_place_in_the_training(ready, tmp_path, augmented):
    train(with_drop(ready, 0.6, 0.0, drop_final=0.0), tmp_path)
    assert [each.drop["scene"] for _, each in augmented] == pytest.approx([0.6 * (1 - n / 6) for n in range(6)])


@pytest.mark.parametrize("stream", ["scene", "sound"])
def test_a_model_of_one_stream_is_not_trained_without_it(stream, ready, tmp_path, augmented):
    train(with_training(with_model(with_drop(ready, 0.5, 0.4), use=[stream]), epochs=1), tmp_path)
    assert [settings.drop for _, settings in augmented] == [{}] * len(augmented)
    assert augmented
