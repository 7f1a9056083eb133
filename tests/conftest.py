"""Media and settings that the tests make for themselves."""

import contextlib
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from dvc.utils.hydra import compose_and_dump

from pipeline.clips.demo_set import draw_clip, plan_clips, write_label_files
from pipeline.clips.manifest import SPLITS, index_split, write_manifest, write_summary
from pipeline.common.config import Config, Extract, Features, parse_config
from pipeline.common.machine import ffmpeg_path
from pipeline.extraction import tasks as extraction
from pipeline.extraction.log_mel import LEVELS
from pipeline.extraction.tasks import extract_splits
from pipeline.loading.loader import Batch
from pipeline.results.evaluation import Evaluation, evaluate_run
from pipeline.training.loop import run_training

REPOSITORY = Path(__file__).parent.parent

# The networks of the tests are too small for several threads to pay; a busy machine makes them wait for each other.
torch.set_num_threads(1)


def run_ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([ffmpeg_path(), "-y", "-loglevel", "error", *map(str, arguments)], check=True)


def composed(folder: Path, *overrides: str) -> dict:
    """The settings that `dvc exp run -S` with these overrides would write to params.yaml."""
    compose_and_dump(folder / "params.yaml", str(REPOSITORY / "configs"), None, "config", "", list(overrides))
    return yaml.safe_load((folder / "params.yaml").read_text())


@pytest.fixture
def values() -> dict:
    """The committed settings, free to be changed by a test."""
    return yaml.safe_load((REPOSITORY / "params.yaml").read_text())


@pytest.fixture
def config(values: dict) -> Config:
    return parse_config(values, "params.yaml")


@pytest.fixture
def features(config: Config) -> Features:
    return config.recipe.features


@pytest.fixture
def limits(config: Config) -> Extract:
    return config.extract


@pytest.fixture(scope="session")
def drawn_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn set of 9 + 9 clips in three sources each, in VGAF's layout. Read only."""
    root = tmp_path_factory.mktemp("drawn")
    settings = parse_config(yaml.safe_load((REPOSITORY / "params.yaml").read_text()), "params.yaml").dataset.synthesize[
        "demo"
    ]
    settings = settings.model_copy(update={"train_clips": 9, "val_clips": 9, "clips_per_source": 3})
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
    config = parse_config(values, "params.yaml")
    (folder / config.manifests).mkdir(parents=True)
    clips, summaries = {}, {}
    for split in SPLITS:
        clips[split], summaries[split] = index_split(folder / "data/demo", split)
        write_manifest(clips[split], folder / config.manifests / f"{split}.csv")
    with pytest.MonkeyPatch.context() as patch:  # in this process: another one would first import librosa
        patch.setattr(extraction, "run_on_this_machine", lambda make, tasks, *_: map(make, tasks))
        extract_splits(clips, folder / "data/demo", folder / config.shards, config.recipe.features, config.extract, 1)
    write_summary(summaries, [], folder / config.manifests)
    return folder, config


@pytest.fixture(scope="session")
def finished(workspace: tuple[Path, Config], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    """Folder of a short run in the workspace, and its evaluation. Read only."""
    root, config = workspace
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(root):
        run_training(config, Accelerator(cpu=True), folder / "run", folder / "checkpoints")
        return folder / "run", evaluate_run(config, folder / "run", Accelerator(cpu=True))


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
        said = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, code, said.out, said.err)

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
