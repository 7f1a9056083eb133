"""How fast a trained model predicts files: the first answer of a command, then files per second, and memory.

    .venv/bin/python benchmarks/predict.py [--run runs/demo/demo/seed-0] [--clips data/demo/Val] [--files 200]
        [--rounds 3]

It needs the run and the clips of the demo, which `make repro` makes, and draws files of 5 s at 360p. The last line is
JSON: `first_answer_s` is how long `python -m stages.predict` takes for one file. `clips_per_s` and `clips_per_s_360p`
come from commands with many files, without the time that a command with one file takes. `memory_mb` is what all
processes of a command with many files take at most. Times and rates are medians over the rounds, the memory is the
maximum.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import psutil
from footage import draw_clip
from trainings import REPOSITORY

from pipeline.common.command_line import DEMO_RUN

DRAWN, SECONDS, HEIGHT = 10, 5.0, 360
LOOK_S = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--run", type=Path, default=DEMO_RUN, metavar="folder", help=f"the model ({DEMO_RUN})")
    parser.add_argument("--clips", type=Path, default=Path("data/demo/Val"), metavar="folder", help="(data/demo/Val)")
    parser.add_argument("--files", type=int, default=200, help="files of a command with many (200)")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        drawn = [Path(name, f"drawn-{number}.mp4") for number in range(DRAWN)]
        for number, path in enumerate(drawn):
            draw_clip(number, SECONDS, HEIGHT, path)
        sources = {"": sorted(arguments.clips.absolute().glob("*.mp4")), f"_{HEIGHT}p": drawn}
        folders = {
            kind: make_folder(Path(name, f"files{kind}"), files, arguments.files) for kind, files in sources.items()
        }
        first_s: list[float] = []
        rates: dict[str, list[float]] = {kind: [] for kind in folders}
        memory_mb = 0.0
        for _ in range(arguments.rounds):
            for kind, folder in folders.items():
                one_s, _ = predict(next(folder.iterdir()), arguments.run)
                all_s, used_mb = predict(folder, arguments.run)
                first_s.append(one_s)
                rates[kind].append((arguments.files - 1) / (all_s - one_s))
                memory_mb = max(memory_mb, used_mb)
    results = {f"clips_per_s{kind}": round(median(rate), 1) for kind, rate in rates.items()}
    print(json.dumps({"first_answer_s": round(median(first_s), 2), **results, "memory_mb": round(memory_mb)}))


def make_folder(folder: Path, files: list[Path], count: int) -> Path:
    """A folder with `count` names of files, each of which is one of the given files."""
    folder.mkdir()
    for number, file in enumerate(islice(cycle(files), count)):
        (folder / f"{number:06d}.mp4").symlink_to(file)
    return folder


def predict(path: Path, run: Path) -> tuple[float, float]:
    """Predict a file or a folder with the command; returns the seconds, and the MB that its processes took at most."""
    started, peak = time.perf_counter(), 0
    command = [sys.executable, "-m", "stages.predict", str(path), "--run", str(run.absolute())]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while is_running(process):
            peak = max(peak, sum(map(memory_bytes, [watched, *watched.children(recursive=True)])))
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, peak / 1e6


def is_running(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a process still runs after some time, in which the memory is not looked at: that takes time too."""
    try:
        process.wait(LOOK_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def memory_bytes(process: psutil.Process) -> int:
    """The memory that a process has to itself, or 0 if it has just ended."""
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    main()
