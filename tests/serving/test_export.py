"""`python -m stages.export`: a folder that predicts what the run predicts, also without this project."""

import dataclasses
import json
import re
import shutil
import subprocess
from contextlib import closing

import cv2
import librosa
import numpy as np
import pytest
from accelerate import Accelerator
from helpers import REPOSITORY, in_folders, write_whole_result
from scipy.special import softmax

from pipeline.clips.labels import CLASSES
from pipeline.common.config import load_config
from pipeline.common.errors import UserError
from pipeline.common.machine import ffmpeg_path
from pipeline.common.recipe import load_recipe
from pipeline.common.records import read_record, write_record
from pipeline.models.model import GroupEmotionModel
from pipeline.models.run_record import RUN_NAME, read_run_record
from pipeline.models.runs import open_run
from pipeline.models.scoring import Scorer
from pipeline.results.model_card import CardResult, render_card
from pipeline.results.result_files import read_metrics, read_provenance
from pipeline.serving.export import ExportedConfig, export_run
from pipeline.serving.onnx_model import INPUTS, PEOPLE_INPUTS
from pipeline.serving.predictor import Predictor

pytestmark = pytest.mark.slow  # tracing the network takes seconds


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """The exported folder of a short run. Read only."""
    run_folder, evaluation = finished
    folder = tmp_path_factory.mktemp("exported")
    write_whole_result(folder / "results", evaluation)
    assert export_run(run_folder, folder / "results", folder / "model") < 1e-4
    return folder / "model"


@pytest.fixture
def without_onnx(monkeypatch):
    """Exports without ONNX, which takes seconds."""
    monkeypatch.setattr("pipeline.serving.export.write_onnx", lambda *_: None)
    monkeypatch.setattr("pipeline.serving.export.check_onnx", lambda *_: 0.0)


def test_all_files_of_the_folder_have_the_same_permissions(exported):
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1


def test_the_folder_holds_all_that_makes_the_model(exported):
    assert {path.name for path in exported.iterdir()} == {
        "README.md",
        "config.json",
        "model.onnx",
        "model.safetensors",
        "run.json",
    }
    config, record = read_record(ExportedConfig, exported / "config.json"), read_run_record(exported)
    assert config == ExportedConfig(record.config.recipe.model, record.config.recipe.features, list(CLASSES))
    assert list(json.loads((exported / "config.json").read_text())) == ["features", "labels", "settings"]


def test_the_folder_names_no_other_folder_of_this_machine(finished, without_onnx, tmp_path):
    run_folder = tmp_path / "run"
    shutil.copytree(finished[0], run_folder)
    record = in_folders(read_run_record(run_folder), tmp_path)
    write_record(record, run_folder / RUN_NAME)
    export_run(run_folder, None, tmp_path / "model")
    for name in ("README.md", "config.json", RUN_NAME):
        assert str(tmp_path) not in (tmp_path / "model" / name).read_text()
    exported = read_run_record(tmp_path / "model")
    assert (exported.config.dataset.root, exported.pretrained["scene"].file) == ("clips", "pretrained.pth")
    assert exported.identity == record.identity


def test_an_exported_model_looks_for_the_face_detector_where_it_is_fetched_to(finished, without_onnx, tmp_path):
    run_folder = shutil.copytree(finished[0], tmp_path / "run")
    record = read_run_record(run_folder)
    extract = record.config.extract.model_copy(update={"face_detector": str(tmp_path / "yunet.onnx")})
    config = record.config.model_copy(update={"extract": extract})
    write_record(dataclasses.replace(record, config=config), run_folder / RUN_NAME)
    export_run(run_folder, None, tmp_path / "model")
    usual = load_config(REPOSITORY / "params.yaml").extract.face_detector
    assert read_run_record(tmp_path / "model").config.extract.face_detector == usual


def test_the_folder_predicts_what_the_run_predicts(exported, finished, one_clip):
    clips = []
    for folder in (finished[0], exported):
        with closing(Predictor(open_run(folder), Accelerator(cpu=True))) as predictor:
            clips.append(predictor.predict(one_clip).clip)
    np.testing.assert_array_equal(clips[0].probabilities, clips[1].probabilities)


def read_as_the_card_says(path, features):
    """The inputs of `model.onnx` for a clip, by someone who has the card, OpenCV, ffmpeg and librosa."""
    video, pictures, times = cv2.VideoCapture(str(path)), [], []
    rate = video.get(cv2.CAP_PROP_FPS)
    while (read := video.read())[0]:
        times.append(len(pictures) / rate)
        pictures.append(read[1])
    duration_s = len(pictures) / rate
    moments = [(i + 0.5) / features["frames"] * duration_s for i in range(features["frames"])]
    shown = [max(k for k, time in enumerate(times) if time <= moment) for moment in moments]
    frames, size = [], features["frame_size_px"]
    for k in shown:
        small = cv2.resize(pictures[k], (size, size), interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, features["jpeg_quality"]])[1]
        frames.append(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[:, :, ::-1].transpose(2, 0, 1))
    hz, hop, bins = features["sample_rate_hz"], features["hop_length"], features["mel_bins"]
    command = [ffmpeg_path(), "-loglevel", "error", "-i", path, "-t", str(duration_s), "-ac", "1", "-ar", str(hz)]
    sound = subprocess.run([*command, "-f", "f32le", "-"], stdout=subprocess.PIPE, check=False).stdout
    bank, hops = np.full((bins, 1 + int(features["max_duration_s"] * hz) // hop), -100, np.float16), 0
    if sound:
        windows = {"n_fft": features["fft_size"], "win_length": features["window_length"], "hop_length": hop}
        mel = librosa.feature.melspectrogram(
            y=np.frombuffer(sound, np.float32), sr=hz, n_mels=bins, pad_mode="constant", **windows
        )
        hops = mel.shape[1]
        bank[:, :hops] = 10 * np.log10(np.maximum(mel, 1e-10))
    inputs = {"frames": np.stack(frames), "frame_times_s": np.float32([times[k] for k in shown]), "has_video": True}
    inputs |= {"log_mel": bank, "mel_frames": hops}
    return {name: np.asarray(value)[None] for name, value in inputs.items()}


def test_who_reads_clips_as_the_card_says_gets_the_same_probabilities(exported, drawn_root):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "model.onnx")
    features = json.loads((exported / "config.json").read_text())["features"]
    differences = []
    with closing(Predictor(open_run(exported), Accelerator(cpu=True))) as predictor:
        for path in sorted(drawn_root.rglob("*.mp4")):
            (logits,) = session.run(None, read_as_the_card_says(path, features))
            expected = predictor.predict(path).clip.probabilities
            differences.append(np.abs(softmax(logits[0]) - expected).max())
    assert len(differences) == 18
    assert max(differences) <= 0.005, differences


def test_the_folder_is_a_model_for_the_hub(exported, batch):
    run = open_run(exported)
    model = GroupEmotionModel.from_pretrained(exported, strict=True)
    scorers = [Scorer(each, Accelerator(cpu=True)) for each in (model, run.model)]
    np.testing.assert_array_equal(*(scorer.probabilities(batch) for scorer in scorers))
    assert model.features == run.config.recipe.features


def test_the_card_states_the_accuracy_of_this_run(exported):
    card = (exported / "README.md").read_text()
    assert card.startswith("---\n")
    assert f"Accuracy {100 * read_metrics(exported.parent / 'results').accuracy:.2f}%" in card
    assert "Not for.** Surveillance" in card


def test_results_of_another_run_are_not_in_the_card_and_refused_if_they_are_named(
    exported, finished, without_onnx, tmp_path, monkeypatch
):
    results = shutil.copytree(exported.parent / "results", tmp_path / "results")
    provenance = read_provenance(results / "seeds/0")
    (run,) = provenance.runs
    other = dataclasses.replace(run, seconds=run.seconds + 1)
    write_record(dataclasses.replace(provenance, runs=[other]), results / "seeds/0/provenance.json")
    for folder in (results, tmp_path / "nowhere"):
        with pytest.raises(
            UserError, match=f"^{folder} holds no result of {finished[0]} alone that this version wrote; name a"
        ):
            export_run(finished[0], folder, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    monkeypatch.chdir(tmp_path)  # where `results` are those of the other run
    export_run(finished[0], None, tmp_path / "model")
    assert "No result of this run alone was at hand" in (tmp_path / "model/README.md").read_text()
    (results / "seeds/0/provenance.json").write_text("{}")  # of another version
    export_run(finished[0], None, tmp_path / "model")
    assert "No result of this run alone was at hand" in (tmp_path / "model/README.md").read_text()


@pytest.mark.parametrize(("split", "name"), [("val", "validation"), ("dev", "dev")])
def test_the_card_states_the_accuracy_of_a_folder_that_evaluate_wrote_of_this_run(
    stage, exported, finished, without_onnx, split, name, tmp_path, monkeypatch
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    workspace, output = finished[0].parents[3], tmp_path / "evaluated"
    done = stage("evaluate", "--run", exported, "--split", split, "--output", output, folder=workspace)
    assert done.returncode == 0, done.stderr
    export_run(finished[0], output, tmp_path / "model")
    card = (tmp_path / "model/README.md").read_text()
    metrics = read_metrics(output)
    assert f"Accuracy {100 * metrics.accuracy:.2f}%" in card
    assert f"on all {metrics.clips} clips of the split `{split}` of the data set `demo`" in card
    assert f"split: {name}" in card


@pytest.mark.parametrize(("dataset", "is_said"), [("demo", True), ("elsewhere", False)])
def test_the_card_says_of_the_train_split_of_its_own_data_set_that_the_model_was_fitted_on_it(
    dataset, is_said, exported
):
    metrics = read_metrics(exported.parent / "results")
    card = render_card(read_run_record(exported), CardResult(metrics, dataset, "train"), range(6))
    assert ("on which, or on a part of which, the model was fitted" in card) == is_said
    assert ("fitted" in card) == is_said


@pytest.mark.parametrize(("recipe", "inputs"), [("demo", INPUTS), ("strong-lite", INPUTS + PEOPLE_INPUTS)])
def test_the_card_explains_each_input_of_the_network(recipe, inputs, exported):
    record = read_run_record(exported)
    config = record.config.model_copy(update={"recipe": load_recipe(recipe)})
    card = render_card(dataclasses.replace(record, config=config), None, range(6))
    assert tuple(re.findall(r"^\| `(\w+)` \(B", card, re.MULTILINE)) == inputs


def test_the_card_of_one_stream_and_of_a_set_with_one_source_leaves_out_what_does_not_exist(exported):
    record = read_run_record(exported)
    record = dataclasses.replace(record, interfaces={"scene": record.interfaces["scene"]})
    metrics = read_metrics(exported.parent / "results")
    metrics = dataclasses.replace(metrics, accuracy_sources_low=None, accuracy_sources_high=None)
    card = render_card(record, CardResult(metrics, "demo", "val"), range(6))
    assert "over sources" not in card
    assert "this stream alone" in card


def test_a_run_is_not_exported_over_itself(exported, tmp_path):
    (tmp_path / "file").touch()
    for run_folder, folder in ((exported, exported), (exported, tmp_path / "file")):
        with pytest.raises(UserError, match="name another folder"):
            export_run(run_folder, tmp_path, folder)


def test_another_run_is_not_overwritten_by_an_export(exported, finished, tmp_path):
    """`export RUN` reads as if it named the run to export; its history would be left beside another model."""
    run = shutil.copytree(finished[0], tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(UserError, match=f"{run} is a run, .* and the run with --run"):
        export_run(exported, None, run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("name", ["README.md", "config.json"])
def test_a_file_that_no_export_wrote_is_not_overwritten(finished, without_onnx, name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        UserError, match=f"{tmp_path} holds a {name} that no export wrote, because it holds no run.json"
    ):
        export_run(finished[0], None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_an_export_replaces_an_earlier_one_whether_it_was_finished_or_not(
    finished, without_onnx, tmp_path, monkeypatch
):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.serving.export.check_onnx", fail)
        with pytest.raises(KeyboardInterrupt):
            export_run(finished[0], None, tmp_path)
    for _ in range(2):
        export_run(finished[0], None, tmp_path)
        assert (tmp_path / "README.md").exists()


def test_a_run_that_does_not_exist_is_named(stage, tmp_path):
    process = stage("export", tmp_path / "model", "--run", tmp_path)
    assert process.returncode == 2
    assert f"{tmp_path} is not the folder of a finished run" in process.stderr
    assert not (tmp_path / "model").exists()
