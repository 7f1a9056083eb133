"""How much faster two processes train than one, on the cores of one machine.

`.venv/bin/python benchmarks/scaling.py`, after `dvc repro` has made the demo's shards; three minutes on two cores. The
same steps of the same global batch: by one process with one thread, by two processes with one thread each, and by one
process with two threads. Printed: clips/s, and the efficiency of two processes, half of their speed-up (1 is perfect).
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import yaml

from pipeline.common.config import load_config
from pipeline.models.runs import HISTORY_NAME

REPOSITORY = Path(__file__).parent.parent
EPOCHS = 4
WAYS = {
    "1 process, 1 thread": ("cpu", 1),
    "2 processes, 1 thread each": ("multi_cpu", 1),
    "1 process, 2 threads": ("cpu", 2),
}


def main() -> None:
    config = load_config()
    values = config.model_dump()
    values["recipe"]["training"]["epochs"] = EPOCHS
    rates = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "params.yaml").write_text(yaml.safe_dump(values))
        for shared in ("data", "data_manifests"):
            (folder / shared).symlink_to(REPOSITORY / shared)
        for way, (launch, threads) in WAYS.items():
            train(folder, launch, threads)
            with (folder / config.run / HISTORY_NAME).open(newline="") as file:
                rows = list(csv.DictReader(file))
            # The first epoch also starts threads and checks shards.
            seconds = median(float(row["seconds"]) for row in rows[1:])
            rates[way] = int(rows[0]["step"]) * config.recipe.training.batch_size / seconds
            print(f"{way:28} {rates[way]:6.1f} clips/s", flush=True)
    one, two, _ = rates.values()
    print(json.dumps({"scaling_efficiency": round(two / one / 2, 3)}))


def train(folder: Path, launch: str, threads: int) -> None:
    launcher = [sys.executable, str(Path(sys.executable).with_name("accelerate")), "launch"]
    subprocess.run(
        [*launcher, "--config_file", str(REPOSITORY / f"configs/accelerate/{launch}.yaml"), "-m", "stages.train"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": str(threads)},
        stderr=subprocess.DEVNULL,
        check=True,
    )


if __name__ == "__main__":
    main()
