"""Extraction that is killed again and again: does it write the same bytes as a run that is not disturbed?

`.venv/bin/python benchmarks/kill_extract.py [--kills 20]` takes some minutes on two cores. Each time, SIGKILL ends the
stage, one of its workers or one of the children that read clips at a random moment. Then the stage runs again.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from pipeline.clips.demo_drawing import draw_set
from pipeline.clips.indexing import index_dataset
from pipeline.clips.manifest import Clip, write_manifests
from pipeline.common.config import Config, load_config
from pipeline.extraction.sandbox import CHILD_MODULE
from pipeline.shards.index import INDEX_NAME

SETTINGS = {"train_clips": 54, "val_clips": 27, "clips_per_source": 9}
TARGETS = ("stage", "worker", "reader")
# A fork server notices the end of the stage only after it has imported librosa.
END_S = 30.0
REPOSITORY = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill extraction at random moments and compare the shards.")
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        config = prepare(workspace)
        shards = workspace / config.shards
        start = time.monotonic()
        run_to_the_end(workspace)
        whole_s, undisturbed = time.monotonic() - start, contents(shards)
        identical = 0
        for number in range(kills):
            shutil.rmtree(shards)
            target = TARGETS[number % len(TARGETS)]
            after_s = rng.uniform(0, whole_s)
            finished = kill(workspace, shards, target, after_s)
            run_to_the_end(workspace)
            same = contents(shards) == undisturbed
            identical += same
            print(f"{target:6} killed after {after_s:5.2f} s {finished}: {'the same bytes' if same else 'OTHER BYTES'}")
    print(json.dumps({"kills": kills, "identical": identical}))


def prepare(workspace: Path) -> Config:
    """A drawn data set, its manifests, and settings with small shards: everything that the stage needs."""
    values = load_config().model_dump()
    values["extract"]["clips_per_shard"] = 6
    config = Config.model_validate(values)
    draw_workspace(workspace, config, SETTINGS)
    return config


def draw_workspace(workspace: Path, config: Config, drawn: dict[str, int]) -> dict[str, list[Clip]]:
    """Write `config` and a demo set, with its settings changed to `drawn`, to a folder; returns each split's clips."""
    (workspace / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    root = workspace / config.root
    draw_set("demo", config.dataset.synthesize["demo"].model_copy(update=drawn), root)
    clips, summary = index_dataset(config.dataset.model_copy(update={"root": str(root)}))
    write_manifests(clips, summary, workspace / config.manifests)
    return clips


def start_stage(workspace: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "stages.extract"],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run_to_the_end(workspace: Path) -> None:
    if code := start_stage(workspace).wait():
        raise RuntimeError(f"the stage ended with {code}")


def kill(workspace: Path, shards: Path, target: str, after_s: float) -> str:
    """Start the stage, and kill it or one of its processes after some time; returns what was finished by then."""
    process = start_stage(workspace)
    time.sleep(after_s)
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    readers = [child for child in tree if running(child) and CHILD_MODULE in child.cmdline()]
    victim = tree[0]
    if readers and target == "reader":
        victim = readers[0]
    elif readers and target == "worker":
        victim = psutil.Process(readers[0].ppid())
    if running(victim):
        victim.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(tree, timeout=END_S)
    if orphans := [child for child in alive if running(child)]:
        raise RuntimeError(f"{orphans} were left behind")
    counts = len(list(shards.rglob("*.tar"))), len(list(shards.rglob(INDEX_NAME)))
    return f"with {counts[0]} shards and {counts[1]} indexes finished"


def running(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
