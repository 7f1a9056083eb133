"""Stages that are launched as users launch them, in processes of their own."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml
from helpers import REPOSITORY
from safetensors.torch import load_file

from pipeline.training.checkpoint import latest_step

LAUNCH_FILES = REPOSITORY / "configs/accelerate"
ACCELERATE = [sys.executable, str(Path(sys.executable).with_name("accelerate")), "launch"]
TIMEOUT_S = 20.0


class Place:
    """A folder with shards, in which stages are launched. Everything that runs there ends with the test."""

    def __init__(self, folder, source, config):
        self.folder, self.started, self.config = folder, [], config
        for name in ("data", "data_manifests"):
            (folder / name).symlink_to(source / name)
        self.set(epochs=2)

    def set(self, checkpoint_minutes=0, norm_clips=1, **training):
        """Settings without dropout, whose random numbers differ from process to process."""
        values = self.config.model_dump()
        values["recipe"]["model"] |= {"dropout": 0.0, "norm_clips": norm_clips, "frames": 2, "views": 3}
        schedules = {"stream_loss": 0.3, "freeze_epochs": 1, "class_balance": "weights", "ema_decay": 0.5}
        # At 2e-3, changing the inputs by 1e-7 of themselves changes the losses by 1e-4 in these few steps.
        values["recipe"]["training"] |= {"batch_size": 2, "learning_rate": 1e-3, **schedules, **training}
        values["execution"] |= {"process_timeout_s": TIMEOUT_S, "checkpoint_minutes": checkpoint_minutes}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values))

    def start(self, *command, prefix=(), start_new_session=False, **environment):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
        process = subprocess.Popen(
            [*prefix, *command],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=start_new_session,
            # In a background job of a script, Ctrl-C is ignored, and the process would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**inherited, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment},
        )
        self.started.append(process)
        return process

    def launch(self, how, stage, *options, **settings):
        options = ("--config_file", str(LAUNCH_FILES / f"{how}.yaml"), *options)
        return self.start(*ACCELERATE, *options, "-m", f"stages.{stage}", **settings)

    def run(self, how, stage, *options, **settings):
        output, _ = (process := self.launch(how, stage, *options, **settings)).communicate(timeout=120)
        assert process.returncode == 0, output
        return output

    def wait_for_checkpoint(self, after=0):
        deadline = time.monotonic() + 90
        while (latest_step(self.folder / "checkpoints/demo/demo/seed-0") or 0) <= after:
            assert time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.02)

    @property
    def losses(self):
        with (self.folder / "runs/demo/demo/seed-0/history.csv").open() as file:
            names = ("train_loss", "selection_accuracy", "selection_log_loss")
            return [float(row[name]) for row in csv.DictReader(file) for name in names]

    @property
    def predictions(self):
        with (self.folder / "results/seeds/0/predictions.csv").open() as file:
            return list(csv.DictReader(file))

    @property
    def weights(self):
        return load_file(self.folder / "runs/demo/demo/seed-0/last.safetensors")


def end(place):
    for process in place.started:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
        process.communicate()
