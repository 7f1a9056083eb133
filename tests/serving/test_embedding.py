"""`python -m stages.embed`: what the heads see of clips, and the probabilities that prediction and evaluation give."""

import shutil
import sys
from contextlib import closing

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import FUSIONS

from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import read_manifest
from pipeline.common.config import RESERVED_NAMES
from pipeline.common.errors import UserError
from pipeline.loading.selection import locate, open_split
from pipeline.models.model import GroupEmotionModel
from pipeline.models.scoring import Scorer
from pipeline.serving.embedding import embed_split, writer_for
from pipeline.serving.predictor import Predictor


@pytest.mark.parametrize("kind", FUSIONS)
def test_the_last_layers_make_the_probabilities_of_the_embedding(config, batch, kind):
    torch.manual_seed(0)
    settings = type(config.recipe.model).model_validate(config.recipe.model.model_dump() | FUSIONS[kind])
    model = GroupEmotionModel(settings, config.recipe.features, CLASSES)
    scorer = Scorer(model, Accelerator(cpu=True))
    values, probabilities = scorer.embed(batch)
    np.testing.assert_array_equal(probabilities, scorer.probabilities(batch))
    assert values.dtype == np.float32
    assert values.shape == (4, settings.width * len(settings.use))
    parts = torch.from_numpy(values).chunk(len(model.fusion.heads), dim=1)
    with torch.no_grad():
        logits = [head(part) for head, part in zip(model.fusion.heads, parts, strict=True)]
    has_sound = slice(0, 3)  # late fusion leaves out the head of a stream that a clip does not have
    expected = torch.stack(logits).mean(dim=0).double().softmax(dim=-1)
    np.testing.assert_allclose(expected[has_sound], probabilities[has_sound], atol=1e-6)


def test_a_split_gets_the_probabilities_of_evaluation_and_the_labels_of_its_manifest(
    stage, trained, ready, run, tmp_path
):
    process = stage("embed", "--split", "val", "--run", trained, "--output", tmp_path / "e.npz", folder=".")
    assert process.returncode == 3, process.stderr
    arrays = np.load(tmp_path / "e.npz")
    located = locate(*open_split(ready, "val"), CLASSES)
    expected = Scorer(run.model, Accelerator(cpu=True)).score(located, ready)
    np.testing.assert_array_equal(arrays["probabilities"], expected)
    assert arrays["embeddings"].shape == (len(located), 2 * ready.recipe.model.width)
    clips = {clip.clip_id: clip for clip in read_manifest(ready.manifests, "val")}
    assert list(arrays["ids"]) == [clip.clip_id for clip in located]
    assert list(arrays["labels"]) == [clips[clip_id].label for clip_id in arrays["ids"]]
    assert list(arrays["source_ids"]) == [clips[clip_id].source_id for clip_id in arrays["ids"]]
    assert tuple(arrays["classes"]) == CLASSES
    assert list(arrays["streams"]) == ["scene", "sound"]
    (quarantined,) = clips.keys() - set(arrays["ids"])
    assert f"{quarantined}: unreadable" in process.stdout


def test_files_get_the_probabilities_of_prediction_and_the_embeddings_of_their_split(
    stage, trained, ready, run, workspace, tmp_path
):
    split = embed_split(run, "demo", "val", Accelerator(cpu=True))
    folder = workspace[0] / "data/demo/Val"
    process = stage("embed", folder, "--run", trained, "--output", tmp_path / "e.npz")
    assert process.returncode == 3, process.stderr
    arrays = np.load(tmp_path / "e.npz")
    files = [str(folder / f"{clip_id}.mp4") for clip_id in split.ids]
    assert list(arrays["ids"]) == files
    assert set(arrays) == {"ids", "embeddings", "streams", "probabilities", "classes"}
    np.testing.assert_allclose(arrays["embeddings"], split.values, atol=1e-5)
    with closing(Predictor(run, Accelerator(cpu=True))) as predictor:
        predicted = [predictor.predict(folder / f"{clip_id}.mp4").clip.probabilities for clip_id in split.ids]
    np.testing.assert_array_equal(arrays["probabilities"], predicted)
    assert "unreadable" in process.stdout
    assert process.stdout.endswith("8 rows of 192 numbers; without a row: 1\n")


def test_another_data_set_may_have_other_classes(run, ready, workspace, monkeypatch, tmp_path):
    for folder in ("data/shards", "data_manifests"):
        shutil.copytree(workspace[0] / folder / "demo", tmp_path / folder / "other")
    manifest = tmp_path / "data_manifests/other/val.csv"
    manifest.write_text(manifest.read_text().replace("positive", "joy"))
    monkeypatch.chdir(tmp_path)
    embeddings = embed_split(run, "other", "val", Accelerator(cpu=True))
    assert "joy" in embeddings.labels
    assert tuple(embeddings.classes) == CLASSES
    with pytest.raises(UserError, match=r"data/shards/nowhere/.*run the extract stage"):
        embed_split(run, "nowhere", "val", Accelerator(cpu=True))


def test_the_server_of_a_runs_shards_is_not_asked_for_those_of_another_data_set(config):
    config = config.model_copy(
        update={"execution": config.execution.model_copy(update={"shards_url": "http://host/demo"})}
    )
    assert config.of_dataset("demo") == config
    assert config.of_dataset("other").execution.shards_url is None


@pytest.mark.parametrize("words", [(), ("a.mp4", "--split", "val"), ("a.mp4", "--dataset", "demo")])
def test_files_and_a_split_exclude_each_other(stage, words):
    process = stage("embed", *words, "--output", "e.npz")
    assert process.returncode == 2
    assert "name either files, or a split" in process.stderr


def test_without_a_clip_that_can_be_used_nothing_is_written(stage, trained, tmp_path):
    (tmp_path / "damaged.mp4").write_text("not a video")
    process = stage("embed", tmp_path / "damaged.mp4", "--run", trained, "--output", tmp_path / "e.npz")
    assert process.returncode == 2
    assert "none of 1 files can be used" in process.stderr
    assert "damaged.mp4 because of unreadable" in process.stderr
    assert not (tmp_path / "e.npz").exists()


def test_a_file_that_cannot_be_written_is_refused_before_the_work(stage, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    no_package = "(a .npz needs no package), but pyarrow is not installed"
    for name, named in (("e.parquet", no_package), ("e.csv", "ends in .npz or .parquet")):
        process = stage("embed", "a.mp4", "--run", "nowhere", "--output", name)
        assert process.returncode == 2
        assert named in process.stderr


def test_parquet_says_what_npz_says(run, ready, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    embeddings = embed_split(run, "demo", "val", Accelerator(cpu=True))
    writer_for(tmp_path / "e.parquet")(embeddings, tmp_path / "e.parquet")
    table = parquet.read_table(tmp_path / "e.parquet").to_pydict()
    assert list(table) == ["id", "source_id", "label", "embedding", *CLASSES]
    assert set(table) - set(CLASSES) <= RESERVED_NAMES
    assert (table["id"], table["label"]) == (embeddings.ids, embeddings.labels)
    np.testing.assert_array_equal(np.array(table["embedding"], np.float32), embeddings.values)
    np.testing.assert_array_equal(np.transpose([table[name] for name in CLASSES]), embeddings.probabilities)
