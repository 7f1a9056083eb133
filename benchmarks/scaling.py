"""How much faster two processes train than one, on the cores of one machine.

Run `.venv/bin/python benchmarks/scaling.py` after `dvc repro` has made the demo's shards. It takes three minutes on two
cores. The same steps with the same global batch are trained by one process with one thread, by two processes with one
thread each, and by one process with two threads. It prints clips/s, and the efficiency of two processes: half of their
speed-up (1 is perfect).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import yaml

from pipeline.common.config import Config, RunId, load_config
from pipeline.models.run_record import read_history

REPOSITORY = Path(__file__).parent.parent
EPOCHS = 4
# For each way to train: the file of configs/accelerate, and the threads per process.
ONE_PROCESS, TWO_PROCESSES = "1 process, 1 thread", "2 processes, 1 thread each"
LAUNCHES = {ONE_PROCESS: ("cpu", 1), TWO_PROCESSES: ("multi_cpu", 1), "1 process, 2 threads": ("cpu", 2)}


def main() -> None:
    config = load_config(changes={"recipe.training.epochs": EPOCHS})
    rates = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
        for shared in ("data", "data_manifests"):
            (folder / shared).symlink_to(REPOSITORY / shared)
        for description, (launch, threads) in LAUNCHES.items():
            train(folder, launch, threads)
            rates[description] = clips_per_second(folder, config)
            print(f"{description:28} {rates[description]:6.1f} clips/s", flush=True)
    efficiency = rates[TWO_PROCESSES] / rates[ONE_PROCESS] / 2
    print(json.dumps({"scaling_efficiency": round(efficiency, 3)}))


def train(folder: Path, launch: str, threads: int) -> None:
    """Run the train stage in a folder."""
    launcher = [sys.executable, str(Path(sys.executable).with_name("accelerate")), "launch"]
    subprocess.run(
        [*launcher, "--config_file", str(REPOSITORY / f"configs/accelerate/{launch}.yaml"), "-m", "stages.train"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": str(threads)},
        stderr=subprocess.DEVNULL,
        check=True,
    )


def clips_per_second(folder: Path, config: Config) -> float:
    """The rate of a run in its median epoch, scoring included; the first, which also checks shards, is left out."""
    first, *others = read_history(folder / config.runs / RunId(config.seeds[0]).folder)
    return first.step * config.recipe.training.batch_size / median(epoch.seconds for epoch in others)


if __name__ == "__main__":
    main()
