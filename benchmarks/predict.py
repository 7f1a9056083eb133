"""How fast a trained model predicts files: the first answer of a command, then files per second, and memory.

    .venv/bin/python benchmarks/predict.py [--run runs/demo/demo/seed-0] [--clips data/demo/Val] [--files 200]
        [--rounds 3]

It needs the run and the clips of the demo, which `make repro` makes, and draws files of 5 s at 360p. The last line is
JSON: `first_answer_s` is how long `python -m stages.predict` takes for one file. `clips_per_s` and `clips_per_s_360p`
come from commands with many files, without the time that a command with one file takes; so do `cpu_ms_per_clip` and
`cpu_ms_per_clip_360p`, the CPU time of all processes. `memory_mb` is what all processes of a command with many files
take at most. Times and rates are medians over the rounds, the memory is the maximum.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import psutil
from footage import draw_clip
from trainings import REPOSITORY

from pipeline.common.command_line import DEMO_RUN

DRAWN, SECONDS, HEIGHT = 10, 5.0, 360
LOOK_S = 0.5
RATE, CPU = "clips_per_s", "cpu_ms_per_clip"


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds, CPU seconds of all its processes, and the MB that they had at most together."""

    wall_s: float
    cpu_s: float
    memory_mb: float


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
        first_s, memory_mb = [], 0.0
        figures: dict[str, list[float]] = {f"{key}{kind}": [] for key in (RATE, CPU) for kind in folders}
        for _ in range(arguments.rounds):
            for kind, folder in folders.items():
                one = predict(next(folder.iterdir()), arguments.run)
                every = predict(folder, arguments.run)
                others = arguments.files - 1
                first_s.append(one.wall_s)
                figures[f"{RATE}{kind}"].append(others / (every.wall_s - one.wall_s))
                figures[f"{CPU}{kind}"].append(1000 * (every.cpu_s - one.cpu_s) / others)
                memory_mb = max(memory_mb, every.memory_mb)
    medians = {key: round(median(values), 1) for key, values in figures.items()}
    print(json.dumps({"first_answer_s": round(median(first_s), 2), **medians, "memory_mb": round(memory_mb)}))


def make_folder(folder: Path, files: list[Path], count: int) -> Path:
    """A folder with `count` names of files, each of which is one of the given files."""
    folder.mkdir()
    for number, file in enumerate(islice(cycle(files), count)):
        (folder / f"{number:06d}.mp4").symlink_to(file)
    return folder


def predict(path: Path, run: Path) -> Cost:
    """Predict a file or a folder with the command."""
    started, cpu_before_s, peak = time.perf_counter(), cpu_s_of_ended_processes(), 0
    command = [sys.executable, "-m", "stages.predict", str(path), "--run", str(run.absolute())]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while is_running(process):
            peak = max(peak, sum(map(memory_bytes, [watched, *watched.children(recursive=True)])))
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(time.perf_counter() - started, cpu_s_of_ended_processes() - cpu_before_s, peak / 1e6)


def cpu_s_of_ended_processes() -> float:
    """CPU seconds of all commands so far, and of the processes that they started."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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
