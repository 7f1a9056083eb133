"""What a million clips cost outside of decoding and training: processor time and memory of all that grows with them.

`.venv/bin/python benchmarks/scale.py [--clips 1000000] [--workers 8]` takes some ten minutes on two cores, and 2 GB in
the temporary folder. The rows of the clips are made up; there is no media, and a shard is a file of a few bytes with
the SHA-256 that the index names. Every step runs the project's own functions in a process of its own, and prints the
CPU seconds of the step itself and the peak memory of its process, imports included (the first line is imports alone).
A step whose name ends in `--workers` is what each of that many training processes does. The rate of hashing shards is
measured on sparse files. Run it with --clips 100000 too: a step that takes much less than a tenth of the time there
grows faster than the number of clips.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from pipeline.clips.identical import find_identical
from pipeline.clips.indexing import sources_in_both, summarize_split
from pipeline.clips.manifest import SPLITS, TRAIN, VAL, Clip, DatasetSummary, read_manifest, write_manifests
from pipeline.clips.splits import assign_roles, summarize_roles, write_assignments
from pipeline.common.config import Config, load_config
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.splits import extract_splits
from pipeline.extraction.tasks import ShardTask, plan_tasks
from pipeline.loading.loader import Loader
from pipeline.loading.plan import plan_epoch, shard_numbers, split_step
from pipeline.loading.selection import clips_by_role, select_clips
from pipeline.results.predictions import predictions_of, read_predictions, write_predictions
from pipeline.shards.files import open_index
from pipeline.shards.format import Entry, Shard
from pipeline.shards.index import ShardIndex, is_intact, write_index

REPOSITORY = Path(__file__).parent.parent
CLIPS_PER_SOURCE, CLIPS_PER_SHARD, VAL_SHARE = 5, 250, 0.1
SHARD_BYTES = 60_000_000
HASHED_SHARDS = 16
PREDICTIONS = Path("predictions.csv")

# Prepares a step, which is not measured, and returns the step.
Preparation = Callable[[Config, argparse.Namespace], Callable[[], object]]


def main() -> None:
    arguments = parse_arguments()
    if arguments.step:
        print(json.dumps(measure(STEPS[arguments.step], arguments)))
        return
    result: dict[str, float] = {"clips": arguments.clips}
    with tempfile.TemporaryDirectory() as workspace:
        for name in STEPS:
            measured = run_alone(name, arguments, workspace)
            print(f"{name:44} {measured['cpu_s']:8.2f} s {measured['peak_mb']:8.0f} MB", flush=True)
            result |= {f"{name}: {key}": value for key, value in measured.items()}
    print(json.dumps(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--clips", type=int, default=1_000_000, help="rows of both manifests together")
    parser.add_argument("--workers", type=int, default=8, help="training processes among which an epoch is cut")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_alone(step: str, arguments: argparse.Namespace, workspace: str) -> dict[str, float]:
    """Run a step in a new process in the workspace; returns what `measure` returns there."""
    counts = ["--clips", str(arguments.clips), "--workers", str(arguments.workers)]
    command = [sys.executable, __file__, "--step", step, *counts]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=workspace, env=environment, stdout=subprocess.PIPE, check=True)
    values: dict[str, float] = json.loads(done.stdout)
    return values


def measure(prepare: Preparation, arguments: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of a step in all threads of this process, and the peak of its resident memory in MB."""
    changes = {"dataset.name": "scale", "extract.clips_per_shard": CLIPS_PER_SHARD}
    step = prepare(load_config(REPOSITORY / "params.yaml", changes), arguments)
    start_s = time.process_time()
    kept = step()
    cpu_s = time.process_time() - start_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    del kept  # until here, as whoever called the step would keep it
    return {"cpu_s": round(cpu_s, 3), "peak_mb": round(peak_mb, 1)}


# ------------------------------------------------------------------------------------------------- manifests and roles


def nothing(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    return lambda: None


def made_clips(config: Config, count: int) -> dict[str, list[Clip]]:
    """The clips of both splits, in sources of `CLIPS_PER_SOURCE`, as `index` sorts them; all files differ."""
    classes, clips = config.dataset.classes, dict[str, list[Clip]]()
    labels = np.random.default_rng(0).integers(len(classes), size=count).tolist()
    for split, numbers in ((VAL, range(int(VAL_SHARE * count))), (TRAIN, range(int(VAL_SHARE * count), count))):
        clips[split] = [
            Clip(
                clip_id=(clip_id := f"{split}{number // CLIPS_PER_SOURCE}_{number % CLIPS_PER_SOURCE}"),
                source_id=clip_id.partition("_")[0],
                label=classes[labels[number]],
                path=f"{split.capitalize()}/{clip_id}.mp4",
                bytes=500_000 + number,
                sha256=f"{number:064x}",
            )
            for number in numbers
        ]
        clips[split].sort(key=lambda clip: clip.clip_id)
    return {split: clips[split] for split in SPLITS}


def summarize_and_write(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    clips = made_clips(config, arguments.clips)

    def step() -> None:
        train, val = (summarize_split(clips[split], Path("x"), "", config.dataset.classes) for split in SPLITS)
        shared, identical = sources_in_both(clips[TRAIN], clips[VAL]), find_identical(clips)
        summary = DatasetSummary(train, val, shared, config.dataset.classes, identical)
        write_manifests(clips, summary, config.manifests)

    return step


def manifests(config: Config, arguments: argparse.Namespace) -> dict[str, list[Clip]]:
    return {split: read_manifest(config.manifests, split) for split in SPLITS}


def split_clips(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    clips = manifests(config, arguments)

    def step() -> object:
        assignments = assign_roles(clips, config)
        write_assignments(assignments, config.manifests)
        return assignments, summarize_roles(assignments, config.dataset.classes)

    return step


# ---------------------------------------------------------------------------------------------------------- extraction


def settings_of(config: Config) -> ClipSettings:
    return ClipSettings(features=config.recipe.features, limits=config.extract)


def tasks_of(config: Config, clips: dict[str, list[Clip]]) -> dict[str, list[ShardTask]]:
    folders = {split: config.shards / split for split in SPLITS}
    return {split: plan_tasks(split, clips[split], Path(), folders[split], settings_of(config)) for split in SPLITS}


def plan_extraction(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    return partial(tasks_of, config, manifests(config, arguments))


def index_shards(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    plans = tasks_of(config, manifests(config, arguments))
    features = config.recipe.features
    indexes = [ShardIndex(config.shards / split, features, list(map(made_shard, plans[split]))) for split in SPLITS]

    def step() -> None:
        for index in indexes:
            write_index(index)

    return step


def made_shard(task: ShardTask) -> Shard:
    """The record of a shard with all clips of a task, whose file is written, but empty."""
    (task.folder / task.name).touch()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    entries = [
        Entry(clip.clip_id, 240_640 * row, 240_640, True, 4.8 + row / 300, 24.999999999999996)
        for row, clip in enumerate(task.clips)
    ]
    return Shard(task.name, task.fingerprint, 0, empty, entries, [])


def extract_again(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    """The extract stage, which finds every shard finished. Hashing their bytes is measured by `hash_shards`."""

    def step() -> object:
        clips = manifests(config, arguments)
        extraction = extract_splits(clips, Path(), config.shards, settings_of(config), workers=1)
        assert extraction.new_clips == 0
        return clips, extraction

    return step


def hash_shards(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    folder = Path("hashed")
    folder.mkdir()
    shards = [Shard(f"{number}.tar", "", SHARD_BYTES, "", [], []) for number in range(HASHED_SHARDS)]
    for shard in shards:
        with (folder / shard.name).open("wb") as file:
            file.truncate(SHARD_BYTES)
    return lambda: [is_intact(folder, shard) for shard in shards]


# ------------------------------------------------------------------------------------------------ training and results


def open_indexes(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    return lambda: [open_index(config, split) for split in SPLITS]


def select(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    return lambda: select_clips(config)


def plan(config: Config, arguments: argparse.Namespace, world: int = 0) -> Callable[[], object]:
    """An epoch without reading and decoding: all else that the first of `world` processes does for its batches."""
    clips, settings = select_clips(config).training, config.recipe.training
    loader = Loader(config.recipe.features, threads=2, any_length=True)
    parts = split_step(64, 0, world or arguments.workers, 1)

    def step() -> object:
        steps = plan_epoch(shard_numbers(clips), 64, settings.shuffle_shards, seed=0, epoch=0)
        frames = np.broadcast_to(np.arange(8), (*steps.shape, 8))
        with patch("pipeline.loading.loader.read_batch", return_value=None):
            return sum(1 for _ in loader.train_batches(clips, steps, frames, parts))

    return step


def find_tested(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    """What evaluate does before it scores: the clips that are reported, and those of dev."""
    return lambda: clips_by_role(config, None)


def write_all_predictions(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    """As if all clips were reported."""
    clips = [clip for split in manifests(config, arguments).values() for clip in split]
    classes = config.dataset.classes
    probabilities = np.random.default_rng(0).dirichlet([1.0] * len(classes), len(clips))

    def step() -> object:
        scored = {clip.clip_id: row for clip, row in zip(clips, probabilities, strict=True)}
        predictions = predictions_of(clips, scored, classes)
        write_predictions({0: predictions}, PREDICTIONS)
        return predictions

    return step


def read_all_predictions(config: Config, arguments: argparse.Namespace) -> Callable[[], object]:
    return lambda: read_predictions(PREDICTIONS)


STEPS: dict[str, Preparation] = {
    "nothing: imports alone": nothing,
    "index: summarize, write manifests": summarize_and_write,
    "read the manifests": lambda config, arguments: partial(manifests, config, arguments),
    "split: assign roles, write splits.csv": split_clips,
    "extract: plan all shards": plan_extraction,
    "extract: write the index": index_shards,
    "extract again, nothing to do": extract_again,
    f"hash {HASHED_SHARDS} shards of {SHARD_BYTES // 10**6} MB": hash_shards,
    "train: read the index": open_indexes,
    "train: select clips (reads the index too)": select,
    "train: an epoch's batches, 1 process": partial(plan, world=1),
    "train: an epoch's batches, --workers": plan,
    "evaluate: find the clips of the result": find_tested,
    "evaluate: write predictions": write_all_predictions,
    "read predictions": read_all_predictions,
}

if __name__ == "__main__":
    main()
