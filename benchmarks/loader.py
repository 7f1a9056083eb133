"""What loading costs against JPEG decoding alone, and how fast it is beside other loaders.

    .uv/bin/uv venv .venv-peers --python .venv/bin/python
    .uv/bin/uv pip install --python .venv-peers/bin/python -e . -r benchmarks/peers.txt
    .venv-peers/bin/python benchmarks/loader.py

Some four minutes on two cores. Without the environment of the first two lines, `.venv/bin/python benchmarks/loader.py`
does the same but for litdata and MosaicML's streaming, which need another numpy than the lock file has.

One interleaved run on the same clips, which are listed many times over; the page cache is warm. All loaders shuffle and
end in batches of uint8 frames and float16 log-mels padded to one length. The first round is not counted: in it ours
checks its shards' SHA-256, worker processes start (they stay), and the pictures of all are compared. Processor time is
that of all processes. Ratios are taken within a round, and medians printed; of a peer's settings, the faster counts.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset as wds
from extract import cpu_s
from footage import draw_clip, run_ffmpeg
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.clips.manifest import Clip, sha256_of
from pipeline.common.config import Extract, Features, load_config
from pipeline.common.machine import available_cores
from pipeline.extraction.decoding import decode_in_process
from pipeline.extraction.log_mel import LEVELS
from pipeline.extraction.tasks import extract_splits
from pipeline.extraction.timeline import open_clip, sample_pts
from pipeline.loading.loader import ClipRef, locate, plan_epoch, read_sample, shard_numbers, train_batches
from pipeline.shards.format import Sample, ShardIndex, write_index, write_shard

SECONDS, HEIGHT, COPIES, SHARDS, BATCH, THREADS = 5.0, 360, 32, 8, 16, 2
WORKERS = (0, 2)  # the settings that each peer is given
SHUFFLED = 64  # clips in the buffer that webdataset shuffles
SILENT = ".silent.mp4"
JPEGS, SIZES, LOG_MEL, PICTURES = "jpegs", "frame_bytes", "log_mel", "pictures"  # of the peers' samples
FEATURES = {"jpeg_quality": 90, "mel_bins": 128}
FLOOR, OURS, WDS, LITDATA, MDS, MP4 = "floor: JPEG alone", "ours", "webdataset", "litdata", "mds", "mp4"

Batches = Iterable[tuple[Tensor, Tensor]]  # frames, log-mels


@dataclass(frozen=True)
class Cost:
    """Of one pass over the clips."""

    clips: int
    cpu_ms: float  # a clip
    rate: float  # clips a second


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the loader.")
    parser.add_argument("--clips", type=int, default=16, help=f"clips to draw; each is listed {COPIES} times")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--frame-size", type=int, default=224)
    options = parser.parse_args()
    config = load_config()
    update = FEATURES | {"frames": options.frames, "frame_size_px": options.frame_size}
    features = config.recipe.features.model_copy(update=update)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = extract(folder, options.clips, features, config.extract)
        clips = list_often(drawn, folder / "ours", features)
        samples = [read_sample(clip) for clip in clips]
        ways: dict[str, Callable[[], Batches]] = {
            FLOOR: partial(floor, samples, features),
            OURS: partial(ours, clips, features, config.recipe.training.shuffle_shards),
            **webdataset_ways(samples, folder / "webdataset", features),
            **litdata_ways(samples, folder / "litdata", features),
            **mds_ways(samples, folder / "mds", features),
            MP4: partial(mp4, drawn, folder, features, config.extract),
        }
        kilobytes = sum(clip.entry.size for clip in clips) / 1000 / len(clips)
        print(f"{len(clips)} clips of {kilobytes:.0f} kB, {features.frames} frames of {features.frame_size_px} px")
        costs = measure(ways, options.repeats)
    report(costs)


def measure(ways: dict[str, Callable[[], Batches]], repeats: int) -> dict[str, list[Cost]]:
    means = {name: content(way()) for name, way in ways.items()}  # the round that is not counted
    for name, mean in means.items():
        # Decoders round differently, and what an mp4 holds was not yet a JPEG; another clip would differ by more.
        if name != FLOOR and not np.allclose(mean, means[OURS], atol=0.5):
            raise AssertionError(f"{name} loads pictures and log-mels of mean {mean}, ours {means[OURS]}")
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            cpu, start = cpu_s(), time.monotonic()
            clips = sum(len(frames) for frames, _ in way())
            seconds = time.monotonic() - start
            costs[name].append(Cost(clips, 1000 * (cpu_s() - cpu) / clips, clips / seconds))
    return costs


def content(batches: Batches) -> tuple[float, float]:
    """Mean of all pictures and of all log-mels."""
    sums = [[len(batch[0]), *(len(part) * part.float().mean().item() for part in batch)] for batch in batches]
    clips, pictures, sound = np.sum(sums, axis=0)
    return pictures / clips, sound / clips


def report(costs: dict[str, list[Cost]]) -> None:
    """Print the table, and the ratios as JSON; null for what is not installed."""
    rate = {name: median(cost.rate for cost in rounds) for name, rounds in costs.items()}
    for name, rounds in costs.items():
        print(f"{name:36} {median(cost.cpu_ms for cost in rounds):8.2f} CPU-ms a clip {rate[name]:8.0f} clips/s")

    def ratio(way: str, other: str, figure: str) -> float | None:
        """Of two ways' figures in the same round; of several settings of a way, the fastest."""
        settings = [[name for name in costs if name.startswith(start)] for start in (way, other)]
        if not all(settings):
            return None
        fastest = [costs[max(names, key=rate.__getitem__)] for names in settings]
        return round(median(getattr(a, figure) / getattr(b, figure) for a, b in zip(*fastest, strict=True)), 3)

    ratios = {
        "cpu_vs_jpeg_floor": ratio(OURS, FLOOR, "cpu_ms"),
        "rate_vs_webdataset": ratio(OURS, f"{WDS},", "rate"),
        "rate_vs_webdataset_simplejpeg": ratio(OURS, f"{WDS} with simplejpeg", "rate"),
        "rate_vs_litdata": ratio(OURS, LITDATA, "rate"),
        "rate_vs_mds": ratio(OURS, MDS, "rate"),
        "mp4_vs_ours": ratio(MP4, OURS, "cpu_ms"),
    }
    print(json.dumps(ratios))


# ------------------------------------------------------------------------------------------------------------- clips


def extract(folder: Path, count: int, features: Features, limits: Extract) -> list[ClipRef]:
    """Draw clips and make shards of them, as the extract stage does; for `mp4`, also copies without sound."""
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        draw_clip(number, SECONDS, HEIGHT, path)
        run_ffmpeg("-i", path, "-an", "-c", "copy", path.with_suffix(SILENT))
    clips = [Clip(path.stem, "drawn", "neutral", path.name, path.stat().st_size, sha256_of(path)) for path in paths]
    made = extract_splits({"train": clips}, folder, folder / "extracted", features, limits, available_cores())
    return locate(made.indexes["train"], clips)


def list_often(drawn: list[ClipRef], folder: Path, features: Features) -> list[ClipRef]:
    """Shards in which each clip occurs `COPIES` times, under different ids."""
    folder.mkdir()
    samples = [replace(read_sample(clip), clip_id=f"{copy}_{clip.clip_id}") for copy in range(COPIES) for clip in drawn]
    shards = [write_shard(folder, f"train-{i:06d}.tar", "", samples[i::SHARDS]) for i in range(SHARDS)]
    index = ShardIndex(folder, features, shards)
    write_index(index)
    return locate(index, [Clip(sample.clip_id, "drawn", "neutral", "", 0, "") for sample in samples])


# -------------------------------------------------------------------------------------------------------------- ways


def floor(samples: list[Sample], features: Features) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode every JPEG, one after the other, into memory that stays in the processor's cache."""
    picture = np.empty((features.frame_size_px, features.frame_size_px, 3), np.uint8)
    nothing = torch.zeros(1, 1)
    for sample in samples:
        for jpeg in sample.jpegs:
            simplejpeg.decode_jpeg(jpeg, "RGB", buffer=picture)
        yield nothing, nothing


def ours(clips: list[ClipRef], features: Features, shuffle_shards: int) -> Iterator[tuple[Tensor, Tensor]]:
    plan = plan_epoch(shard_numbers(clips), BATCH, shuffle_shards, seed=0, epoch=0)
    for batch in train_batches(clips, plan, [np.arange(BATCH)], features, THREADS):
        yield batch.frames, batch.log_mel


def mp4(drawn: list[ClipRef], folder: Path, features: Features, limits: Extract) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode the video itself: frames at the same times, by the decoder that extraction uses.

    More than fair: on threads, each clip once, without its sound, which would have to be decoded too; the log-mels are
    in memory already.
    """
    log_mels = [read_sample(clip).log_mel for clip in drawn]

    def read(number: int) -> dict[str, Any]:
        with open_clip(folder / f"{drawn[number].clip_id}{SILENT}", features, limits) as file:
            decoded = decode_in_process(file, sample_pts(file.timeline, features.frames), features, limits)
            assert decoded is not None
        return {PICTURES: decoded.frames, LOG_MEL: log_mels[number]}

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(drawn), BATCH):
            yield collate(list(pool.map(read, range(len(drawn))[start : start + BATCH])), features)


# ------------------------------------------------------------------------------------------------------------- peers


def collate(samples: Sequence[dict[str, Any]], features: Features) -> tuple[Tensor, Tensor]:
    """Samples -> batch, as a careful user writes it: pictures are decoded, or copied, to where they stay.

    Into memory of NumPy's, not of PyTorch's: NumPy asks for huge pages, which cost less to touch.
    """
    count, size = features.frames, features.frame_size_px
    frames = np.empty((len(samples), count, size, size, 3), np.uint8)
    log_mel = np.empty((len(samples), features.mel_bins, features.max_mel_frames), np.float16)
    for sample, pictures, bank in zip(samples, frames, log_mel, strict=True):
        for source, picture in zip(sample[PICTURES], pictures, strict=True):
            if isinstance(source, np.ndarray):
                picture[:] = source
            else:
                simplejpeg.decode_jpeg(source, "RGB", buffer=picture)
        hops = sample[LOG_MEL].shape[1]
        bank[:, :hops], bank[:, hops:] = sample[LOG_MEL], LEVELS[features.front_end].silence
    return torch.from_numpy(frames), torch.from_numpy(log_mel)


def webdataset_ways(samples: list[Sample], folder: Path, features: Features) -> dict[str, Callable[[], Batches]]:
    """The usual layout, a member a picture, with its own decoding and with our decoder in `collate`."""
    folder.mkdir()
    with wds.ShardWriter(f"{folder}/%06d.tar", maxcount=len(samples) // SHARDS, verbose=0) as sink:
        for sample in samples:
            pictures = {f"{number:03d}.jpg": bytes(jpeg) for number, jpeg in enumerate(sample.jpegs)}
            meta = {"duration_s": sample.duration_s, "frame_times_s": sample.frame_times_s}
            sink.write({"__key__": sample.clip_id, **pictures, "json": meta, "log_mel.npy": sample.log_mel})
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    decoders = {f"{WDS}, its decoding": ["rgb8"], f"{WDS} with simplejpeg": []}

    def loader(decoder: list[str], workers: int) -> Any:
        dataset = wds.WebDataset(shards, shardshuffle=SHARDS).shuffle(SHUFFLED).decode(*decoder).map(from_members)
        batches = dataset.batched(BATCH, collation_fn=partial(collate, features=features))
        return wds.WebLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)

    return {
        f"{name}, {workers} workers": partial(iter, loader(decoder, workers))
        for name, decoder in decoders.items()
        for workers in WORKERS
    }


def from_members(members: dict[str, Any]) -> dict[str, Any]:
    pictures = [members[name] for name in sorted(members) if name.endswith(".jpg")]
    return {PICTURES: pictures, LOG_MEL: members["log_mel.npy"]}


def columns(sample: Sample) -> dict[str, Any]:
    """For litdata and mds: few, as they are read one by one, so the pictures are one."""
    sizes = np.array([len(jpeg) for jpeg in sample.jpegs], np.int32)
    return {JPEGS: b"".join(sample.jpegs), SIZES: sizes, LOG_MEL: sample.log_mel}


def collate_columns(rows: Sequence[dict[str, Any]], features: Features) -> tuple[Tensor, Tensor]:
    samples = []
    for row in rows:
        ends = accumulate(row[SIZES].tolist(), initial=0)
        samples.append({PICTURES: [row[JPEGS][a:b] for a, b in pairwise(ends)], LOG_MEL: row[LOG_MEL]})
    return collate(samples, features)


def loader_settings(features: Features, workers: int) -> dict[str, Any]:
    settings = {"batch_size": BATCH, "num_workers": workers, "persistent_workers": workers > 0}
    return {**settings, "collate_fn": partial(collate_columns, features=features)}


def litdata_ways(samples: list[Sample], folder: Path, features: Features) -> dict[str, Callable[[], Batches]]:
    try:
        from litdata import StreamingDataLoader, StreamingDataset
        from litdata.streaming.writer import BinaryWriter
    except ImportError:
        return absent(LITDATA)
    writer = BinaryWriter(str(folder), chunk_size=len(samples) // SHARDS)
    for number, sample in enumerate(samples):
        writer[number] = columns(sample)
    writer.done()
    writer.merge()

    def loader(workers: int) -> Any:
        return StreamingDataLoader(StreamingDataset(str(folder), shuffle=True), **loader_settings(features, workers))

    return {f"{LITDATA}, {workers} workers": partial(iter, loader(workers)) for workers in WORKERS}


def mds_ways(samples: list[Sample], folder: Path, features: Features) -> dict[str, Callable[[], Batches]]:
    try:
        from streaming import MDSWriter, StreamingDataset
    except ImportError:
        return absent(MDS)
    kinds = {JPEGS: "bytes", SIZES: "ndarray:int32", LOG_MEL: "ndarray:float16"}
    with MDSWriter(out=str(folder), columns=kinds) as writer:
        for sample in samples:
            writer.write(columns(sample))

    def loader(workers: int) -> Any:
        dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
        return DataLoader(dataset, **loader_settings(features, workers))

    return {f"{MDS}, {workers} workers": partial(iter, loader(workers)) for workers in WORKERS}


def absent(name: str) -> dict[str, Callable[[], Batches]]:
    print(f"{name} is not installed: make the environment that {Path(__file__).name} begins with", file=sys.stderr)
    return {}


if __name__ == "__main__":
    main()
