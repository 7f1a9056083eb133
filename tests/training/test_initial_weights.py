"""A training that starts from the weights of another run."""

import contextlib
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from short_trainings import (
    Killed,
    interrupt,
    kill,
    train,
    with_all_checkpoints,
    with_backbones,
    with_model,
    with_stream,
)

from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import SPLITS, SUMMARY_NAME, Clip, read_manifest, write_manifest
from pipeline.clips.splits import assign_roles, write_assignments
from pipeline.common.config import Config, RunId, parse_config, with_changes
from pipeline.common.errors import UserError
from pipeline.common.files import sha256_of
from pipeline.common.records import write_record
from pipeline.loading.selection import ROLES_KEY
from pipeline.models.initial_weights import HEADS, load_initial_weights
from pipeline.models.model import GroupEmotionModel
from pipeline.models.run_record import MODEL_NAME, RUN_NAME, read_run_record
from pipeline.models.runs import save_tensors
from pipeline.models.weights import BATCH_COUNTER
from pipeline.results.model_card import render_card
from pipeline.serving.export import export_run
from pipeline.training.setup import Training, start_training

RUN = "runs/demo/demo/seed-0"
SIX = ("anger", "disgust", "fear", "joy", "sadness", "surprise")


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A workspace, the current folder, with a finished run of the demo, `RUN`."""
    copied = finished[0].parents[3]
    for name in ("data_manifests", "runs"):
        shutil.copytree(copied / name, tmp_path / "workspace" / name)
    (tmp_path / "workspace/data").symlink_to(copied / "data")
    monkeypatch.chdir(tmp_path / "workspace")
    return Path.cwd()


@pytest.fixture
def another(place, workspace, monkeypatch):
    """Makes settings that start from `RUN` with the same clips as another data set, whose classes may be others."""

    def make(classes: Sequence[str] = CLASSES, init: str = RUN) -> Config:
        values = {"dataset.name": "acted", "dataset.classes": list(classes), "recipe.init": init}
        config = parse_config(with_changes(workspace[1].model_dump(), values), "test")
        clips = {split: read_manifest(workspace[1].manifests, split) for split in SPLITS}
        if classes is not CLASSES:
            clips = {split: labelled(each, classes) for split, each in clips.items()}
        config.manifests.mkdir(exist_ok=True)
        for split in SPLITS:
            write_manifest(clips[split], config.manifests / f"{split}.csv")
        shutil.copy(workspace[1].manifests / SUMMARY_NAME, config.manifests)
        write_assignments(assign_roles(clips, config), config.manifests)
        shards = property(lambda each: Path("data/shards/demo", each.recipe.features.folder))
        monkeypatch.setattr(Config, "shards", shards)  # those of the demo
        return config

    return make


def labelled(clips: Sequence[Clip], classes: Sequence[str]) -> list[Clip]:
    """The clips with the classes as their labels, in turn."""
    return [dataclasses.replace(clip, label=classes[number % len(classes)]) for number, clip in enumerate(clips)]


def begin(config: Config, folder: Path) -> Training:
    return start_training(config, RunId(0), Accelerator(cpu=True), folder / "run", folder / "checkpoints")


def with_init(config: Config, init: str) -> Config:
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"init": init})})


def write_model(config: Config, model: GroupEmotionModel, folder: Path) -> None:
    """A finished run of another data set, with this model and these settings."""
    folder.mkdir(parents=True)
    record = read_run_record(Path(RUN))
    of_elsewhere = config.model_copy(update={"dataset": config.dataset.model_copy(update={"name": "elsewhere"})})
    write_record(dataclasses.replace(record, config=of_elsewhere), folder / RUN_NAME)
    save_tensors(model.state_dict(), folder / MODEL_NAME)


def model_of(config: Config, seed: int = 7) -> GroupEmotionModel:
    torch.manual_seed(seed)
    return GroupEmotionModel(config.recipe.model, config.recipe.features, config.dataset.classes)


def test_a_training_on_another_data_set_starts_with_every_tensor_of_the_run_and_records_it(another, tmp_path, capsys):
    config = another()
    given = load_file(Path(RUN, MODEL_NAME))
    begun = begin(config, tmp_path)
    assert begun.state.model.state_dict().keys() == given.keys()
    assert all(torch.equal(value, given[name]) for name, value in begun.state.model.state_dict().items())
    weights = [name for name in given if not name.endswith(BATCH_COUNTER)]
    assert f"init: {len(weights)} of {len(weights)} tensors from {RUN}/{MODEL_NAME}\n" in capsys.readouterr().out

    train(config, tmp_path)
    record = read_run_record(tmp_path / "run")
    assert record.identity["the weights of init"] == sha256_of(Path(RUN, MODEL_NAME)) == record.initial.weights.sha256
    assert record.initial.weights.matched == sorted(weights)
    assert record.initial.trained_on == {"demo": read_run_record(Path(RUN)).identity[ROLES_KEY]}
    card = render_card(record, None, range(6))
    assert f"started from another model: {len(weights)} of {len(weights)} tensors" in card
    assert "continued with changes" not in card
    changed = dataclasses.replace(record, resumed_with_changes=["number of processes: 1 -> 2"])
    assert "continued with changes: number of processes: 1 -> 2." in render_card(changed, None, range(6))


@pytest.mark.parametrize("classes", [SIX, CLASSES[::-1]], ids=["six", "the same in another order"])
def test_a_head_of_other_classes_stays_as_it_was_initialised(another, tmp_path, classes, capsys):
    config = another(classes)
    given = load_file(Path(RUN, MODEL_NAME))
    fresh = begin(with_init(config, "none"), tmp_path).state.model.state_dict()
    capsys.readouterr()
    model = begin(config, tmp_path).state.model.state_dict()
    heads = [name for name in model if name.startswith(HEADS)]
    assert len(heads) == 4
    assert all(torch.equal(model[name], fresh[name]) for name in heads)
    assert all(torch.equal(model[name], given[name]) for name in model.keys() - set(heads))
    assert "4 missing: fusion.heads.0.0.bias, " in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"use": ["sound", "scene"]}, {"fusion": "late", "use": ["sound"]}])
def test_a_head_that_another_stream_would_feed_stays_as_it_was_initialised(another, tmp_path, change):
    config = another()
    before = with_model(config, **({"fusion": "late"} if "fusion" in change else {}))
    write_model(before, model_of(before), tmp_path / "before")
    given, fresh = load_file(tmp_path / "before" / MODEL_NAME), model_of(with_model(config, **change))
    unchanged = {name: tensor.clone() for name, tensor in fresh.state_dict().items() if name.startswith(HEADS)}
    loaded = load_initial_weights(
        fresh, with_init(with_model(config, **change), str(tmp_path / "before")), "", tmp_path
    )
    fitting = [name for name, tensor in unchanged.items() if name in given and given[name].shape == tensor.shape]
    assert len(fitting) == 4
    assert all(torch.equal(fresh.state_dict()[name], unchanged[name]) for name in fitting)
    assert not any(name.startswith(HEADS) for name in loaded.weights.matched)


def test_a_network_with_some_statistics_of_another_one_cannot_keep_them(another, tmp_path):
    config = with_model(with_backbones(another(), network="resnet18"), use=["scene", "sound"])
    write_model(config, model_of(config), tmp_path / "before")
    other = with_model(with_stream(config, "sound", network="resnet50"), norm_clips=0)
    with pytest.raises(UserError, match=r"norm_clips is 0, .* of 106 in the network for sound were not loaded: "):
        begin(with_init(other, str(tmp_path / "before")), tmp_path)


def test_a_training_whose_start_has_changed_is_not_continued(another, tmp_path, monkeypatch):
    config = with_all_checkpoints(another())
    with monkeypatch.context() as patch:
        interrupt(patch, 2, kill)
        with pytest.raises(Killed):
            train(config, tmp_path)
    file = Path(RUN, MODEL_NAME)
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"the weights of init: [0-9a-f]{12}\.\.\. -> "):
        train(config, tmp_path)


def test_a_run_of_the_same_data_set_is_a_start_only_if_its_clips_had_the_same_roles(place, workspace, tmp_path):
    config = with_init(workspace[1], RUN)
    assert begin(config, tmp_path).initial.weights.share == 1
    resplit(config, split_seed=1)
    with pytest.raises(UserError, match="trained on demo too, but with another split or fold"):
        begin(config, tmp_path)


def test_a_run_of_the_same_data_set_is_no_start_either_when_another_run_started_from_it(another, workspace, tmp_path):
    train(another(), tmp_path)
    config = with_init(workspace[1], str(tmp_path / "run"))
    assert begin(config, tmp_path / "next").initial.trained_on.keys() == {"demo", "acted"}
    resplit(config, split_seed=1)
    with pytest.raises(UserError, match="trained on demo too, but with another split or fold"):
        begin(config, tmp_path / "next")


def resplit(config: Config, **settings: object) -> None:
    """Write `splits.csv` again, with other settings."""
    clips = {split: read_manifest(config.manifests, split) for split in SPLITS}
    write_assignments(assign_roles(clips, config.model_copy(update=settings)), config.manifests)


def test_a_start_that_is_missing_or_is_the_run_itself_is_refused(place, workspace, tmp_path):
    for init in ("runs/absent", "runs/demo/demo", str(tmp_path)):
        with pytest.raises(UserError, match=rf"recipe\.init is {init}, but .* holds no run\.json and model\.saf.*fold"):
            begin(with_init(workspace[1], init), tmp_path)
    with pytest.raises(UserError, match=r"the folder that this training writes to; give the recipe another name"):
        start_training(with_init(workspace[1], RUN), RunId(0), Accelerator(cpu=True), Path(RUN), tmp_path)


@pytest.mark.parametrize(("name", "other"), [("hop_length", 80), ("window_length", 200), ("fft_size", 2048)])
def test_a_run_that_heard_another_log_mel_is_refused_unless_no_sound_is_used(another, tmp_path, name, other):
    config = another()
    features = config.recipe.features.model_copy(update={name: other})
    before = config.model_copy(update={"recipe": config.recipe.model_copy(update={"features": features})})
    write_model(before, model_of(before), tmp_path / "before")
    config = with_init(config, str(tmp_path / "before"))
    with pytest.raises(UserError, match=rf"another log-mel \({name}: {other} -> \d+\); set recipe\.features"):
        begin(config, tmp_path)
    silent = begin(with_model(config, use=["scene"]), tmp_path).initial
    assert all(name.startswith(HEADS) for name in silent.weights.missing), "a head of one stream is narrower"


def test_other_networks_are_refused_and_one_that_fits_is_enough(another, tmp_path):
    config = another()
    other = with_backbones(config, network="resnet18")
    with pytest.raises(
        UserError, match=r"it has scene small, sound small, .* scene resnet18 \(0% filled, min_matched 9"
    ):
        begin(other, tmp_path)
    one_fits = begin(with_stream(other, "scene", network="small"), tmp_path)
    given, model = load_file(Path(RUN, MODEL_NAME)), one_fits.state.model.state_dict()
    assert all(torch.equal(model[name], given[name]) for name in given if name.startswith("networks.scene."))


def test_the_statistics_of_batch_norms_are_taken_too(another, tmp_path):
    config = with_model(with_backbones(another(), network="resnet18"), use=["sound"])
    model = model_of(config)
    for name, buffer in model.named_buffers():
        buffer.fill_(5 if name.endswith(BATCH_COUNTER) else 0.25)
    write_model(config, model, tmp_path / "before")
    started = model_of(config, seed=8)
    assert (
        load_initial_weights(started, with_init(config, str(tmp_path / "before")), "", tmp_path).weights.missing == []
    )
    statistics = dict(started.named_buffers())
    assert len([name for name in statistics if name.endswith("running_var")]) == 20
    for name, buffer in model.named_buffers():
        assert torch.equal(statistics[name], buffer) != name.endswith(BATCH_COUNTER), "a counter is not a weight"


def test_a_network_that_the_run_lacks_keeps_the_weights_that_the_recipe_names(another, tmp_path):
    config = another()
    published = {name: value + 1 for name, value in load_file(Path(RUN, MODEL_NAME)).items()}
    save_file(published, tmp_path / "published.safetensors")
    seeing = with_model(config, use=["scene"])
    write_model(seeing, model_of(seeing), tmp_path / "before")
    given = load_file(tmp_path / "before" / MODEL_NAME)
    start = with_init(with_backbones(config, weights=str(tmp_path / "published.safetensors")), str(tmp_path / "before"))
    model = begin(start, tmp_path).state.model.state_dict()
    backbones = [name for name in model if name.startswith("networks.") and not name.endswith("num_batches_tracked")]
    assert len(backbones) == 2 * 4 * 5, "two networks of four layers with a kernel and BatchNorm's four tensors"
    for name in backbones:
        assert torch.equal(model[name], (given if name.startswith("networks.scene.") else published)[name]), name


def test_a_queued_copy_of_the_workspace_starts_from_the_runs_of_the_workspace(another, place, tmp_path):
    config, copy = another(), place / ".dvc/tmp/exps/tmpab12"
    (copy / RUN).mkdir(parents=True)
    model = model_of(config)
    with contextlib.chdir(copy):
        initial = load_initial_weights(model, config, "", Path("runs/acted/demo/seed-0"))
    assert initial.weights.sha256 == sha256_of(place / RUN / MODEL_NAME)
    assert initial.weights.file == f"{RUN}/{MODEL_NAME}"


def test_an_exported_folder_is_a_start_too(another, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.serving.export.write_onnx", lambda *_: None)
    monkeypatch.setattr("pipeline.serving.export.check_onnx", lambda *_: 0.0)
    export_run(Path(RUN), None, tmp_path / "exported")
    assert begin(another(init=str(tmp_path / "exported")), tmp_path).initial.weights.share == 1
