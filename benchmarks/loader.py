"""What loading costs compared with JPEG decoding alone, and how fast this loader is compared with others.

    make benchmarks
    .venv-benchmarks/bin/python benchmarks/loader.py

It takes some four minutes on two cores. The first line installs litdata and MosaicML's streaming, which are not in the
lock file; without it, `.venv/bin/python benchmarks/loader.py` leaves them out.

All loaders read the same clips in one interleaved run, each clip many times; the page cache is warm. All of them
shuffle and give batches of uint8 frames and float16 log-mels padded to one length. The first round is not counted: in
it, this loader checks its shards' SHA-256, worker processes start (they stay), and the pictures of all loaders are
compared. Processor time is that of all processes. Ratios are taken within a round, and their medians are printed. If a
loader runs with several settings, the fastest one counts. With people, each frame also has two faces, of 112 px; the
other loaders do without them.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from extract import cpu_s
from footage import draw_clip, run_ffmpeg
from peer_loaders import (
    BATCH_SIZE,
    LITDATA,
    LOG_MEL,
    MDS,
    PICTURES,
    SHARDS,
    WEBDATASET,
    Batches,
    Pass,
    collate,
    litdata_passes,
    mds_passes,
    webdataset_passes,
)
from torch import Tensor

from pipeline.clips.manifest import Clip
from pipeline.common.config import load_config
from pipeline.common.features import Features
from pipeline.common.files import sha256_of
from pipeline.common.machine import available_cores
from pipeline.extraction.clip_file import open_clip
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.pyav_decoder import decode_in_process
from pipeline.extraction.splits import extract_splits
from pipeline.extraction.timeline import sample_pts
from pipeline.loading.loader import Loader, read_sample
from pipeline.loading.plan import plan_epoch, shard_numbers, split_step
from pipeline.loading.selection import ClipRef, locate
from pipeline.shards.format import Person, Sample, write_shard
from pipeline.shards.index import ShardIndex, write_index

SECONDS, HEIGHT, COPIES, THREADS = 5.0, 360, 32, 2
SILENT_SUFFIX, LABEL = ".silent.mp4", "neutral"
FLOOR, OURS, MP4 = "floor: JPEG alone", "ours", "mp4"
PEOPLE_FLOOR, PEOPLE = "people, floor: JPEG alone", "people, ours"
FACES, FACE_SIZE_PX = 2, 112  # of a frame


@dataclass(frozen=True)
class Cost:
    """What one pass over the clips cost."""

    clips: int
    cpu_ms: float  # per clip
    rate: float  # clips per second


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--clips", type=int, default=16, help=f"clips to draw; each is listed {COPIES} times")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default: 5)")
    parser.add_argument("--frames", type=int, default=16, help="frames per clip (default: 16)")
    parser.add_argument("--frame-size", type=int, default=224, help="side of a frame in pixels (default: 224)")
    arguments = parser.parse_args()
    changes = {
        "recipe.features.frames": arguments.frames,
        "recipe.model.frames": arguments.frames,
        "recipe.features.frame_size_px": arguments.frame_size,
        "recipe.features.jpeg_quality": 90,
        "recipe.features.mel_bins": 128,
    }
    config = load_config(changes=changes)
    features = config.recipe.features
    settings = ClipSettings(features=features, limits=config.extract)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = draw_and_extract(folder, arguments.clips, settings)
        clips = list_many_times(drawn, folder / "ours", features)
        samples = [read_sample(clip) for clip in clips]
        passes: dict[str, Pass] = {
            FLOOR: partial(decode_jpegs, samples, features),
            OURS: partial(load_batches, clips, features, config.recipe.training.shuffle_shards),
            **people_passes(drawn, folder / "people", features, config.recipe.training.shuffle_shards),
            **webdataset_passes(samples, folder / "webdataset", features),
            **litdata_passes(samples, folder / "litdata", features),
            **mds_passes(samples, folder / "mds", features),
            MP4: partial(decode_videos, drawn, folder, settings),
        }
        kilobytes = sum(clip.entry.size for clip in clips) / 1000 / len(clips)
        print(f"{len(clips)} clips of {kilobytes:.0f} kB, {features.frames} frames of {features.frame_size_px} px")
        costs = measure(passes, arguments.repeats)
    report(costs)


# ------------------------------------------------------------------------------------------------------- measurement


def measure(passes: dict[str, Pass], repeats: int) -> dict[str, list[Cost]]:
    """The cost of each loader in each round. Raises `AssertionError` if a loader gives other pictures or sounds."""
    means = {name: mean_content(load()) for name, load in passes.items()}  # the round that is not counted
    for name, mean in means.items():
        # Decoders round differently, and the frames of an mp4 were not JPEGs before. Other clips would differ by more.
        if name not in (FLOOR, PEOPLE_FLOOR) and not np.allclose(mean, means[OURS], atol=0.5):
            raise AssertionError(f"{name} loads pictures and log-mels of mean {mean}, this loader {means[OURS]}")
    costs: dict[str, list[Cost]] = {name: [] for name in passes}
    for _ in range(repeats):
        for name, load in passes.items():
            start_cpu_s, start_s = cpu_s(), time.monotonic()
            clips = sum(len(frames) for frames, _ in load())
            seconds = time.monotonic() - start_s
            costs[name].append(Cost(clips, 1000 * (cpu_s() - start_cpu_s) / clips, clips / seconds))
    return costs


def mean_content(batches: Batches) -> tuple[float, float]:
    """Mean of all pictures and of all log-mels."""
    sums = [[len(batch[0]), *(len(part) * part.float().mean().item() for part in batch)] for batch in batches]
    clips, pictures, sounds = np.sum(sums, axis=0)
    return pictures / clips, sounds / clips


def report(costs: dict[str, list[Cost]]) -> None:
    """Print the table, and the ratios as JSON; null for a loader that is not installed."""
    for name, rounds in costs.items():
        print(f"{name:36} {median(cost.cpu_ms for cost in rounds):8.2f} CPU-ms per clip {rate(rounds):8.0f} clips/s")
    ratios = {
        "cpu_vs_jpeg_floor": ratio(costs, OURS, FLOOR, "cpu_ms"),
        "people_cpu_vs_jpeg_floor": ratio(costs, PEOPLE, PEOPLE_FLOOR, "cpu_ms"),
        "rate_vs_webdataset": ratio(costs, OURS, f"{WEBDATASET},", "rate"),
        "rate_vs_webdataset_simplejpeg": ratio(costs, OURS, f"{WEBDATASET} with simplejpeg", "rate"),
        "rate_vs_litdata": ratio(costs, OURS, LITDATA, "rate"),
        "rate_vs_mds": ratio(costs, OURS, MDS, "rate"),
        "mp4_vs_ours": ratio(costs, MP4, OURS, "cpu_ms"),
    }
    print(json.dumps(ratios))


def rate(rounds: list[Cost]) -> float:
    return median(cost.rate for cost in rounds)


def ratio(costs: dict[str, list[Cost]], first: str, second: str, figure: str) -> float | None:
    """Median ratio of a figure of two loaders in the same round; None if one of them is not installed.

    A loader is named by how its name begins: of its settings, the fastest one counts.
    """
    settings = [[rounds for name, rounds in costs.items() if name.startswith(start)] for start in (first, second)]
    if not all(settings):
        return None
    pairs = zip(*(max(each, key=rate) for each in settings), strict=True)
    return round(median(getattr(a, figure) / getattr(b, figure) for a, b in pairs), 3)


# ------------------------------------------------------------------------------------------------------------- clips


def draw_and_extract(folder: Path, count: int, settings: ClipSettings) -> list[ClipRef]:
    """Draw clips and make shards of them, as the extract stage does; also copy the videos without sound."""
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        draw_clip(number, SECONDS, HEIGHT, path)
        run_ffmpeg("-i", path, "-an", "-c", "copy", path.with_suffix(SILENT_SUFFIX))
    clips = [Clip(path.stem, "drawn", LABEL, path.name, path.stat().st_size, sha256_of(path)) for path in paths]
    extraction = extract_splits({"train": clips}, folder, folder / "extracted", settings, available_cores())
    return locate(extraction.indexes["train"], clips, [LABEL])


def list_many_times(drawn: list[ClipRef], folder: Path, features: Features) -> list[ClipRef]:
    """Make shards in which each clip occurs `COPIES` times, under different ids."""
    folder.mkdir()
    read = [add_faces(read_sample(clip), features) for clip in drawn]
    samples = [replace(sample, clip_id=f"{copy}_{sample.clip_id}") for copy in range(COPIES) for sample in read]
    shards = [write_shard(folder, f"train-{i:06d}.tar", "", samples[i::SHARDS]) for i in range(SHARDS)]
    index = ShardIndex(folder, features, shards)
    write_index(index)
    return locate(index, [Clip(sample.clip_id, "drawn", LABEL, "", 0, "") for sample in samples], [LABEL])


def add_faces(sample: Sample, features: Features) -> Sample:
    """The sample with the middle of each frame as its faces, as many as the features have."""
    people: list[Person] = []
    for number, jpeg in enumerate(sample.jpegs):
        frame = simplejpeg.decode_jpeg(jpeg, "BGR")
        quarter = len(frame) // 4
        crop = cv2.resize(frame[quarter:-quarter, quarter:-quarter], (features.people.size_px, features.people.size_px))
        face = Person(number, (0.5, 0.5, 0.5, 0.5), 0.9, cv2.imencode(".jpg", crop)[1].tobytes())
        people += [face] * features.people.most
    return replace(sample, people=tuple(people))


# ------------------------------------------------------------------------------------------------------------ passes


def people_passes(drawn: list[ClipRef], folder: Path, features: Features, shuffle_shards: int) -> dict[str, Pass]:
    """This project's loader on clips with faces, and the floor of them."""
    people = features.people.model_copy(update={"most": FACES, "size_px": FACE_SIZE_PX})
    features = features.model_copy(update={"people": people})
    clips = list_many_times(drawn, folder, features)
    return {
        PEOPLE_FLOOR: partial(decode_jpegs, [read_sample(clip) for clip in clips], features),
        PEOPLE: partial(load_batches, clips, features, shuffle_shards),
    }


def decode_jpegs(samples: list[Sample], features: Features) -> Iterator[tuple[Tensor, Tensor]]:
    """The floor: decode one JPEG after the other into memory that stays in the processor's cache."""
    picture = np.empty((features.frame_size_px, features.frame_size_px, 3), np.uint8)
    crop = np.empty((features.people.size_px, features.people.size_px, 3), np.uint8)
    empty = torch.zeros(1, 1)
    for sample in samples:
        for jpeg in sample.jpegs:
            simplejpeg.decode_jpeg(jpeg, "RGB", buffer=picture)
        for person in sample.people:
            simplejpeg.decode_jpeg(person.jpeg, "RGB", buffer=crop)
        yield empty, empty


def load_batches(clips: list[ClipRef], features: Features, shuffle_shards: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This project's loader."""
    plan = plan_epoch(shard_numbers(clips), BATCH_SIZE, shuffle_shards, seed=0, epoch=0)
    parts = split_step(BATCH_SIZE, rank=0, world=1, micro_batches=1)
    frames = np.broadcast_to(np.arange(features.frames), (*plan.shape, features.frames))
    for batch in Loader(features, THREADS).train_batches(clips, plan, frames, parts):
        yield batch.frames, batch.log_mel


def decode_videos(drawn: list[ClipRef], folder: Path, settings: ClipSettings) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode the videos themselves: frames at the same times, by the decoder that extraction uses.

    This favours the videos. They are decoded on threads, each clip once, without the sound, which would have to be
    decoded too. The log-mels are in memory already.
    """
    features = settings.features
    log_mels = [read_sample(clip).log_mel for clip in drawn]

    def read(number: int) -> dict[str, Any]:
        with open_clip(folder / f"{drawn[number].clip_id}{SILENT_SUFFIX}", settings) as clip:
            decoded = decode_in_process(clip, sample_pts(clip.timeline, features.frames), settings)
        assert decoded is not None
        return {PICTURES: decoded.frames, LOG_MEL: log_mels[number]}

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(drawn), BATCH_SIZE):
            numbers = range(start, min(start + BATCH_SIZE, len(drawn)))
            yield collate(list(pool.map(read, numbers)), features)


if __name__ == "__main__":
    main()
