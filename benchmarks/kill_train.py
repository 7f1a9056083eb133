"""Kills training again and again. Are the weights, bit for bit, those of an undisturbed run?

`.venv/bin/python benchmarks/kill_train.py [--kills 10]` takes some ten minutes on two cores. It trains two epochs on a
small drawn set, with a checkpoint after every step. Each time it kills the launcher or a training process with SIGKILL,
at a random moment after the first checkpoint, and then runs the same command again. It does so with one process first,
then with two.
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
from kill_extract import draw_workspace

from pipeline.clips.splits import assign_roles, write_assignments
from pipeline.common.config import Config, RunId, load_config
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.splits import extract_splits
from pipeline.models.run_record import LAST_MODEL_NAME, MODEL_NAME, RUN_NAME
from pipeline.training.checkpoint import latest_step

REPOSITORY = Path(__file__).parent.parent
DRAWN = {"train_clips": 54, "val_clips": 9, "clips_per_source": 9}
RUN = RunId(0)
ALL_RUNS = "runs"  # with the finished runs that are kept, which would be reused
CHANGES = {
    "seeds": [RUN.seed],
    "recipe.training.epochs": 2,
    "recipe.model.norm_clips": 2,
    "recipe.training.batch_size": 8,
    "recipe.training.ema_decay": 0.9,
    "recipe.training.micro_batches": 2,
    "execution.checkpoint_minutes": 0,
    "extract.clips_per_shard": 6,
}
# For each number of processes, the file of configs/accelerate.
LAUNCHES = {1: "cpu", 2: "multi_cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="kills with each number of processes (default: 10)")
    kills = parser.parse_args().kills
    rng = random.Random(0)
    identical = 0
    with tempfile.TemporaryDirectory() as name:
        workspace = Path(name)
        config = prepare(workspace)
        for processes, launch in LAUNCHES.items():
            train_s, undisturbed = run_to_the_end(workspace, config, launch)
            for _ in range(kills):
                description = kill_once(workspace, config, launch, train_s, rng)
                _, weights = run_to_the_end(workspace, config, launch)
                identical += weights == undisturbed
                outcome = "the same weights" if weights == undisturbed else "OTHER WEIGHTS"
                print(f"{processes} process(es), {description}: {outcome}", flush=True)
    print(json.dumps({"kills": kills * len(LAUNCHES), "identical": identical}))


def prepare(workspace: Path) -> Config:
    """Write everything that the stage needs into a folder: a drawn data set, its manifests, shards and settings."""
    config = load_config(changes=CHANGES)
    clips = draw_workspace(workspace, config, DRAWN)
    write_assignments(assign_roles(clips, config), workspace / config.manifests)
    settings = ClipSettings(features=config.recipe.features, limits=config.extract)
    extract_splits(clips, workspace / config.root, workspace / config.shards, settings, 2)
    return config


def start(workspace: Path, launch: str) -> "subprocess.Popen[bytes]":
    """Start the train stage with a file of configs/accelerate."""
    launcher = [sys.executable, str(Path(sys.executable).with_name("accelerate")), "launch"]
    return subprocess.Popen(
        [*launcher, "--config_file", str(REPOSITORY / f"configs/accelerate/{launch}.yaml"), "-m", "stages.train"],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run_to_the_end(workspace: Path, config: Config, launch: str) -> tuple[float, list[bytes]]:
    """Run the stage; returns the seconds that it took after its first checkpoint, and its weights. Removes the run."""
    process = start(workspace, launch)
    wait_for_a_checkpoint(workspace, config, process)
    start_s = time.monotonic()
    if code := process.wait():
        raise RuntimeError(f"the train stage ended with exit code {code}")
    train_s = time.monotonic() - start_s
    weights = [(workspace / config.runs / RUN.folder / name).read_bytes() for name in (MODEL_NAME, LAST_MODEL_NAME)]
    shutil.rmtree(workspace / ALL_RUNS)
    return train_s, weights


def wait_for_a_checkpoint(workspace: Path, config: Config, process: "subprocess.Popen[bytes]") -> None:
    """Wait until there is a checkpoint, or until the stage has ended."""
    while process.poll() is None and latest_step(workspace / config.checkpoints / RUN.folder) is None:
        time.sleep(0.01)


def kill_once(workspace: Path, config: Config, launch: str, train_s: float, rng: random.Random) -> str:
    """Kill a training at a random moment, and try again as long as it ends before; describes the kill."""
    while True:
        if description := kill(workspace, config, launch, rng.uniform(0, train_s), rng):
            return description


def kill(workspace: Path, config: Config, launch: str, after_s: float, rng: random.Random) -> str | None:
    """Start the stage, and kill one of its processes `after_s` seconds after its first checkpoint.

    Returns a description of the kill, or None if the training had ended before. Its run is removed then.
    """
    process = start(workspace, launch)
    wait_for_a_checkpoint(workspace, config, process)
    time.sleep(after_s)
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    running = [child for child in tree if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    victim = rng.choice([child for child in running if "stages.train" in child.cmdline()] or tree)
    step = latest_step(workspace / config.checkpoints / RUN.folder)
    if victim in running:
        victim.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(tree, timeout=60)
    if alive:
        raise RuntimeError(f"these processes did not end: {alive}")
    if (workspace / config.runs / RUN.folder / RUN_NAME).exists():
        shutil.rmtree(workspace / ALL_RUNS)
        shutil.rmtree(workspace / config.checkpoints, ignore_errors=True)
        return None
    name = "launcher" if victim.pid == process.pid else "training process"
    return f"{name} killed after {after_s:4.1f} s, last checkpoint at step {step}"


if __name__ == "__main__":
    main()
