"""Media and settings that the tests make for themselves."""

import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.config import Config, Extract, Features, parse_config
from pipeline.demo_set import draw_clip, plan_clips, write_label_files
from pipeline.machine import ffmpeg_path
from pipeline.manifest import SPLITS

REPOSITORY = Path(__file__).parent.parent


def run_ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([ffmpeg_path(), "-y", "-loglevel", "error", *map(str, arguments)], check=True)


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


@pytest.fixture
def one_clip(drawn_root: Path) -> Path:
    """A drawn clip with sound."""
    return next(path for path in sorted((drawn_root / "Train").glob("*.mp4")) if b"soun" in path.read_bytes())
