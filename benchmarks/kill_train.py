"""Training killed again and again: are the weights, bit for bit, those of a run that nobody disturbed?

`.venv/bin/python benchmarks/kill_train.py [--kills 10]`, some ten minutes on two cores. Two epochs of a small drawn
set, a checkpoint every third step. Each time the launcher or one of its training processes is killed with SIGKILL at
a random moment after the first checkpoint; then the same command runs again. First with one process, then with two.
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

from pipeline.common.config import Config, load_config
from pipeline.extraction.tasks import extract_splits
from pipeline.models.runs import LAST_MODEL_NAME, MODEL_NAME, RUN_NAME
from pipeline.training.checkpoint import latest_step

REPOSITORY = Path(__file__).parent.parent
DRAWN = {"train_clips": 54, "val_clips": 9, "clips_per_source": 9}
TRAINED = {"epochs": 2, "batch_size": 4, "ema_decay": 0.9, "micro_batches": 2}
CHECKPOINT_STEPS = 3
LAUNCHES = {1: "cpu", 2: "multi_cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill training at random moments and compare the weights.")
    parser.add_argument("--kills", type=int, default=10, help="with each number of processes (default: 10)")
    kills = parser.parse_args().kills
    rng = random.Random(0)
    identical = 0
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        config = prepare(workspace)
        for processes, launch in LAUNCHES.items():
            train_s, undisturbed = run_to_the_end(workspace, config, launch)
            for _ in range(kills):
                found = None
                while found is None:
                    found = kill(workspace, config, launch, rng.uniform(0, train_s), rng)
                same = run_to_the_end(workspace, config, launch)[1] == undisturbed
                identical += same
                print(
                    f"{processes} process(es), {found}: {'the same weights' if same else 'OTHER WEIGHTS'}", flush=True
                )
    print(json.dumps({"kills": kills * len(LAUNCHES), "identical": identical}))


def prepare(workspace: Path) -> Config:
    """A drawn data set, its manifests, shards and settings: all that the stage needs."""
    values = load_config().model_dump()
    values["recipe"]["training"] |= TRAINED
    values["execution"]["checkpoint_steps"] = CHECKPOINT_STEPS
    values["extract"]["clips_per_shard"] = 6
    config = Config.model_validate(values)
    clips = draw_workspace(workspace, config, DRAWN)
    root = workspace / config.root
    extract_splits(clips, root, workspace / config.shards, config.recipe.features, config.extract, 2)
    return config


def start(workspace: Path, launch: str) -> "subprocess.Popen[bytes]":
    launcher = [sys.executable, str(Path(sys.executable).with_name("accelerate")), "launch"]
    return subprocess.Popen(
        [*launcher, "--config_file", str(REPOSITORY / f"configs/accelerate/{launch}.yaml"), "-m", "stages.train"],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run_to_the_end(workspace: Path, config: Config, launch: str) -> tuple[float, list[bytes]]:
    """Run the stage; how long it took from its first checkpoint on, in seconds, and its weights, which are removed."""
    process = start(workspace, launch)
    began = wait_until_it_trains(workspace, config, process)
    if code := process.wait():
        raise RuntimeError(f"the stage ended with {code}")
    train_s = time.monotonic() - began
    run = workspace / config.run
    weights = [(run / name).read_bytes() for name in (MODEL_NAME, LAST_MODEL_NAME)]
    shutil.rmtree(run)
    return train_s, weights


def wait_until_it_trains(workspace: Path, config: Config, process: "subprocess.Popen[bytes]") -> float:
    """Until its first checkpoint: then, on the monotonic clock."""
    while process.poll() is None and latest_step(workspace / config.checkpoints) is None:
        time.sleep(0.01)
    return time.monotonic()


def kill(workspace: Path, config: Config, launch: str, after_s: float, rng: random.Random) -> str | None:
    """Start the stage, kill one of its processes some time after its first checkpoint; what was there then, in words.

    None when it had already ended, its run written.
    """
    process = start(workspace, launch)
    wait_until_it_trains(workspace, config, process)
    time.sleep(after_s)
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    running = [child for child in tree if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    victim = rng.choice([child for child in running if "stages.train" in child.cmdline()] or tree)
    step = latest_step(workspace / config.checkpoints)
    if victim in running:
        victim.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(tree, timeout=60)
    if alive:
        raise RuntimeError(f"{alive} were left behind")
    if (workspace / config.run / RUN_NAME).exists():
        shutil.rmtree(workspace / config.run)
        shutil.rmtree(workspace / config.checkpoints, ignore_errors=True)
        return None
    who = "launcher" if victim.pid == process.pid else "training process"
    return f"{who} killed after {after_s:4.1f} s, last checkpoint at step {step}"


if __name__ == "__main__":
    main()
