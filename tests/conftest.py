"""Media and settings that the tests make for themselves."""

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from helpers import REPOSITORY, clips_of, dataset_at, extraction_in_this_process, with_four_streams
from short_trainings import interrupt, terminate, train, train_and_evaluate
from stand_in_detector import write_stand_in

from pipeline.clips.demo_drawing import draw_clip
from pipeline.clips.demo_set import plan_clips, write_label_files
from pipeline.clips.indexing import index_dataset
from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import SPLITS, Clip, read_manifest, write_manifests
from pipeline.clips.splits import assign_roles, write_assignments
from pipeline.common.config import Config, ExtractSettings, RunId, load_config, parse_config, with_changes
from pipeline.common.errors import Stopped
from pipeline.common.features import Features
from pipeline.common.files import sha256_of
from pipeline.extraction import face_detector
from pipeline.extraction import sandbox as sandbox_module
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.splits import extract_splits
from pipeline.loading.batch import Batch
from pipeline.loading.selection import ClipRef, locate
from pipeline.results.evaluation import Evaluation
from pipeline.shards.index import ShardIndex
from pipeline.shards.log_mel_units import LEVELS

# The networks of the tests are too small for several threads to pay; a busy machine makes them wait for each other.
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those that are for one: once used in a process, a GPU is what Accelerate uses."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture
def values() -> dict:
    """The committed settings, free to be changed by a test."""
    return yaml.safe_load((REPOSITORY / "params.yaml").read_text())


@pytest.fixture(scope="session")
def demo_config() -> Config:
    """The committed settings. Read only."""
    return load_config(REPOSITORY / "params.yaml")


@pytest.fixture
def config(values: dict) -> Config:
    return parse_config(values, "params.yaml")


@pytest.fixture
def features(config: Config) -> Features:
    return config.recipe.features


@pytest.fixture
def limits(config: Config) -> ExtractSettings:
    return config.extract


@pytest.fixture
def clip_settings(features: Features, limits: ExtractSettings) -> ClipSettings:
    return ClipSettings(features=features, limits=limits)


@pytest.fixture(scope="session")
def drawn_root(demo_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn set of 9 + 9 clips in three sources each, in VGAF's layout. Read only."""
    root = tmp_path_factory.mktemp("drawn")
    demo = demo_config.dataset.synthesize["demo"]
    settings = demo.model_copy(update={"train_clips": 9, "val_clips": 9, "clips_per_source": 3})
    clips = plan_clips(settings)
    for split in SPLITS:
        (root / split.capitalize()).mkdir()
    write_label_files(clips, root)
    for clip in clips:
        draw_clip(clip, settings, root)
    return root


@pytest.fixture(scope="session")
def workspace(drawn_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A folder with manifests and shards of the drawn set, one val clip quarantined; and settings. Read only."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(drawn_root, folder / "data/demo")
    sorted((folder / "data/demo/Val").glob("*.mp4"))[0].write_text("not a video")
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values["recipe"]["training"] |= {"epochs": 2, "batch_size": 2}
    values["recipe"]["model"]["norm_clips"] = 1
    config = parse_config(values, "params.yaml")
    clips, summary = index_dataset(dataset_at(folder / "data/demo"))
    write_manifests(clips, summary, folder / config.manifests)
    write_assignments(assign_roles(clips, config), folder / config.manifests)
    settings = ClipSettings(features=config.recipe.features, limits=config.extract)
    with extraction_in_this_process():
        extract_splits(clips, folder / "data/demo", folder / config.shards, settings, 1)
    return folder, config


@pytest.fixture(scope="session")
def workspace_of_four(workspace: tuple[Path, Config], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """The workspace with the shards, and the settings, of four streams, one of them people. Read only.

    The detector is a stand-in that finds faces everywhere; two are kept of a frame.
    """
    root, two = workspace
    folder = tmp_path_factory.mktemp("four")
    for name in ("data/demo", "data_manifests"):
        shutil.copytree(root / name, folder / name)
    values = with_four_streams(two.model_dump())
    detector = write_stand_in(folder / "detector.onnx", everywhere=True)
    values["extract"]["face_detector"] = str(detector)
    config = parse_config(values, "params.yaml")
    clips = {split: read_manifest(folder / config.manifests, split) for split in SPLITS}
    settings = ClipSettings(features=config.recipe.features, limits=config.extract)
    with extraction_in_this_process(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(face_detector, "DETECTOR_SHA256", sha256_of(detector))
        extract_splits(clips, folder / "data/demo", folder / config.shards, settings, 1)
    return folder, config


@pytest.fixture
def ready_with_four(workspace_of_four: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch) -> Config:
    """The settings of the workspace of four streams, which is the current folder."""
    monkeypatch.chdir(workspace_of_four[0])
    return workspace_of_four[1]


@pytest.fixture(scope="session")
def finished(workspace: tuple[Path, Config], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    """Folder of a short run in a copy of the workspace, and its evaluation. Read only."""
    root, config = workspace
    copy = tmp_path_factory.mktemp("finished") / "workspace"
    shutil.copytree(root, copy)
    with contextlib.chdir(copy):
        return copy / config.runs / RunId(0).folder, train_and_evaluate(config)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `python -m stages.<name> ...` in a folder, in this process: another one would first import torch."""

    def run(name: str, *arguments: object, folder: Path = REPOSITORY) -> subprocess.CompletedProcess:
        main = importlib.import_module(f"stages.{name}").main
        monkeypatch.setattr(sys, "argv", [f"stages.{name}", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        with contextlib.chdir(folder):
            try:
                main()
            except SystemExit as end:
                code = end.code
        output = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, code, output.out, output.err)

    return run


@pytest.fixture
def batch(features: Features) -> Batch:
    """Four random clips of 2, 3, 4 and 5 s; the last one has no sound."""
    torch.manual_seed(0)
    clips, size = 4, features.frame_size_px
    mel_frames = torch.tensor([201, 301, 401, 0])
    log_mel = torch.full((clips, features.mel_bins, features.max_mel_frames), LEVELS[features.front_end].silence)
    for row, hops in zip(log_mel, mel_frames, strict=True):
        row[:, :hops] = torch.randn(features.mel_bins, int(hops)) * 20 - 40
    return Batch(
        clip_ids=["1_1", "1_2", "2_1", "2_2"],
        frames=torch.randint(0, 256, (clips, features.frames, 3, size, size), dtype=torch.uint8),
        frame_times_s=torch.arange(features.frames) * torch.tensor([[0.3], [0.5], [0.7], [0.8]]),
        has_video=torch.ones(clips, dtype=torch.bool),
        log_mel=log_mel.half(),
        mel_frames=mel_frames,
        labels=torch.tensor([0, 1, 2, 0]),
    )


@pytest.fixture
def one_clip(drawn_root: Path) -> Path:
    """A drawn clip with sound."""
    return next(path for path in sorted((drawn_root / "Train").glob("*.mp4")) if b"soun" in path.read_bytes())


@pytest.fixture(scope="session")
def extracted(
    drawn_root: Path, demo_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ShardIndex, list[Clip]]:
    """The drawn set's train clips in shards of four: their index and their manifest."""
    clips = clips_of(drawn_root, "train")
    limits = demo_config.extract.model_copy(update={"clips_per_shard": 4})
    settings = ClipSettings(features=demo_config.recipe.features, limits=limits)
    with extraction_in_this_process():
        extraction = extract_splits({"train": clips}, drawn_root, tmp_path_factory.mktemp("shards"), settings, 1)
    return extraction.indexes["train"], clips


@pytest.fixture
def refs(extracted: tuple[ShardIndex, list[Clip]]) -> list[ClipRef]:
    """Where the clips of `extracted` lie."""
    return locate(*extracted, CLASSES)


@pytest.fixture
def ready(workspace: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch) -> Config:
    """The settings of the workspace, which is the current folder."""
    monkeypatch.chdir(workspace[0])
    return workspace[1]


@pytest.fixture
def split_workspace(workspace: tuple[Path, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Makes a copy of the workspace, the current folder, with other splits; returns its settings."""
    shutil.copytree(workspace[0], tmp_path / "split")
    monkeypatch.chdir(tmp_path / "split")

    def split(select_on: str = "dev", **settings: object) -> Config:
        changes = {"recipe.training.select_on": select_on, **settings}
        config = parse_config(with_changes(workspace[1].model_dump(), changes), "test")
        clips = {name: read_manifest(config.manifests, name) for name in SPLITS}
        write_assignments(assign_roles(clips, config), config.manifests)
        return config

    return split


@pytest.fixture
def unfinished(ready: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a training that was stopped after its second step."""
    with monkeypatch.context() as patch:
        interrupt(patch, 1, terminate)
        with pytest.raises(Stopped):
            train(ready, tmp_path)
    return tmp_path


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Replaces the program of the child that reads clips by a script, in which a test changes `sandbox_child`."""

    def child(body):
        script = tmp_path / "child.py"
        script.write_text(
            f"import os, signal, sys, time\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
            "from multiprocessing.connection import Connection\n"
            "from pipeline.extraction import sandbox_child\n"
            f"{body}\nsandbox_child.serve(Connection(int(sys.argv[1])))\n"
        )
        popen = subprocess.Popen

        def start(command, **options):
            return popen([sys.executable, script, *command[-1:]], **options)

        monkeypatch.setattr(sandbox_module.subprocess, "Popen", start)

    return child
