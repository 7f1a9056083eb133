"""Extraction killed again and again: are the shards the same bytes as of a run that nobody disturbed?

`.venv/bin/python benchmarks/kill_extract.py [--kills 20]`, some minutes on two cores. Each time the stage, one of its
workers or one of the processes that read clips is killed with SIGKILL at a random moment; then the stage runs again.
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

from pipeline.clips.demo_set import draw_clip, plan_clips, write_label_files
from pipeline.clips.manifest import SPLITS, Clip, index_split, write_manifest
from pipeline.common.config import Config, load_config
from pipeline.extraction import clip_reader as sandbox
from pipeline.shards.format import INDEX_NAME

SETTINGS = {"train_clips": 54, "val_clips": 27, "clips_per_source": 9}
TARGETS = ("stage", "worker", "reader")
REPOSITORY = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill extraction at random moments and compare what comes out.")
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
            found = kill(workspace, shards, target, after_s)
            run_to_the_end(workspace)
            same = contents(shards) == undisturbed
            identical += same
            print(f"{target:6} killed after {after_s:5.2f} s, {found}: {'the same bytes' if same else 'OTHER BYTES'}")
    print(json.dumps({"kills": kills, "identical": identical}))


def prepare(workspace: Path) -> Config:
    """A drawn data set, its manifests and settings with small shards: all that the stage needs."""
    values = load_config().model_dump()
    values["extract"]["clips_per_shard"] = 6
    config = Config.model_validate(values)
    draw_workspace(workspace, config, SETTINGS)
    return config


def draw_workspace(workspace: Path, config: Config, drawn: dict[str, int]) -> dict[str, list[Clip]]:
    """Put `config` and the demo, with the settings `drawn` instead, into a folder; gives the clips of each split."""
    (workspace / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    root, settings = workspace / config.root, config.dataset.synthesize["demo"].model_copy(update=drawn)
    planned = plan_clips(settings)
    for split in SPLITS:
        (root / split.capitalize()).mkdir(parents=True)
    write_label_files(planned, root)
    for clip in planned:
        draw_clip(clip, settings, root)
    clips = {split: index_split(root, split)[0] for split in SPLITS}
    (workspace / config.manifests).mkdir(parents=True)
    for split in SPLITS:
        write_manifest(clips[split], workspace / config.manifests / f"{split}.csv")
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
    """Start the stage, kill it or a process of it after some time; what was there then, in words."""
    process = start_stage(workspace)
    time.sleep(after_s)
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    readers = [child for child in tree if running(child) and sandbox.__name__ in child.cmdline()]
    victim = tree[0]
    if readers and target == "reader":
        victim = readers[0]
    elif readers and target == "worker":
        victim = psutil.Process(readers[0].ppid())
    if running(victim):
        victim.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(tree, timeout=5)
    if orphans := [child for child in alive if running(child)]:
        raise RuntimeError(f"{orphans} were left behind")
    finished = len(list(shards.rglob("*.tar")))
    return f"{finished} shards, {len(list(shards.rglob(INDEX_NAME)))} indexes there"


def running(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
