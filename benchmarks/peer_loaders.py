"""Other loaders on the same samples, set up as a careful user would: webdataset, litdata, MosaicML's streaming (mds).

Each function writes the samples in a loader's own format and returns passes over them, by name: one for each number of
worker processes. `benchmarks/loader.py` measures them.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.common.features import Features
from pipeline.shards.format import Sample
from pipeline.shards.log_mel_units import LEVELS

BATCH_SIZE, SHARDS = 16, 8
WORKERS = (0, 2)  # numbers of worker processes that each loader runs with
SHUFFLED = 64  # clips in the buffer that webdataset shuffles
WEBDATASET, LITDATA, MDS = "webdataset", "litdata", "mds"
# Keys of a sample, as the loaders store it and as `collate` takes it.
JPEGS, SIZES, LOG_MEL, PICTURES = "jpegs", "frame_bytes", "log_mel", "pictures"

Batches = Iterable[tuple[Tensor, Tensor]]  # frames, log-mels
Pass = Callable[[], Batches]  # loads every clip once


def collate(samples: Sequence[dict[str, Any]], features: Features) -> tuple[Tensor, Tensor]:
    """Stack samples to a batch. Pictures are decoded, or copied, directly to their place in it.

    The memory is NumPy's, not PyTorch's: NumPy asks for huge pages, which take less time to touch.
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


# -------------------------------------------------------------------------------------------------------- webdataset


def webdataset_passes(samples: list[Sample], folder: Path, features: Features) -> dict[str, Pass]:
    """webdataset with its usual layout, one member per picture: with its own decoder, and with ours in `collate`."""
    folder.mkdir()
    with wds.ShardWriter(f"{folder}/%06d.tar", maxcount=len(samples) // SHARDS, verbose=0) as sink:
        for sample in samples:
            pictures = {f"{number:03d}.jpg": bytes(jpeg) for number, jpeg in enumerate(sample.jpegs)}
            meta = {"duration_s": sample.duration_s, "frame_times_s": sample.frame_times_s}
            sink.write({"__key__": sample.clip_id, **pictures, "json": meta, "log_mel.npy": sample.log_mel})
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    decoders = {f"{WEBDATASET}, its decoding": ["rgb8"], f"{WEBDATASET} with simplejpeg": []}

    def loader(decoder: list[str], workers: int) -> Any:
        dataset = wds.WebDataset(shards, shardshuffle=SHARDS).shuffle(SHUFFLED).decode(*decoder).map(from_members)
        batches = dataset.batched(BATCH_SIZE, collation_fn=partial(collate, features=features))
        return wds.WebLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)

    return {
        f"{name}, {workers} workers": partial(iter, loader(decoder, workers))
        for name, decoder in decoders.items()
        for workers in WORKERS
    }


def from_members(members: dict[str, Any]) -> dict[str, Any]:
    """A sample, as `collate` takes it, from what webdataset reads."""
    pictures = [members[name] for name in sorted(members) if name.endswith(".jpg")]
    return {PICTURES: pictures, LOG_MEL: members["log_mel.npy"]}


# --------------------------------------------------------------------------------------------------- litdata and mds


def litdata_passes(samples: list[Sample], folder: Path, features: Features) -> dict[str, Pass]:
    """litdata; no pass if it is not installed."""
    try:
        from litdata import StreamingDataLoader, StreamingDataset
        from litdata.streaming.writer import BinaryWriter
    except ImportError:
        return not_installed(LITDATA)
    writer = BinaryWriter(str(folder), chunk_size=len(samples) // SHARDS)
    for number, sample in enumerate(samples):
        writer[number] = to_columns(sample)
    writer.done()
    writer.merge()

    def loader(workers: int) -> Any:
        return StreamingDataLoader(StreamingDataset(str(folder), shuffle=True), **loader_settings(features, workers))

    return {f"{LITDATA}, {workers} workers": partial(iter, loader(workers)) for workers in WORKERS}


def mds_passes(samples: list[Sample], folder: Path, features: Features) -> dict[str, Pass]:
    """MosaicML's streaming; no pass if it is not installed."""
    try:
        from streaming import MDSWriter, StreamingDataset
    except ImportError:
        return not_installed(MDS)
    types = {JPEGS: "bytes", SIZES: "ndarray:int32", LOG_MEL: "ndarray:float16"}
    with MDSWriter(out=str(folder), columns=types) as writer:
        for sample in samples:
            writer.write(to_columns(sample))

    def loader(workers: int) -> Any:
        dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH_SIZE)
        return DataLoader(dataset, **loader_settings(features, workers))

    return {f"{MDS}, {workers} workers": partial(iter, loader(workers)) for workers in WORKERS}


def to_columns(sample: Sample) -> dict[str, Any]:
    """A sample in few columns, because each one is read separately. So all pictures are in one column."""
    sizes = np.array([len(jpeg) for jpeg in sample.jpegs], np.int32)
    return {JPEGS: b"".join(sample.jpegs), SIZES: sizes, LOG_MEL: sample.log_mel}


def collate_columns(rows: Sequence[dict[str, Any]], features: Features) -> tuple[Tensor, Tensor]:
    """Undo `to_columns` and stack the samples to a batch."""
    samples = []
    for row in rows:
        ends = accumulate(row[SIZES].tolist(), initial=0)
        samples.append({PICTURES: [row[JPEGS][a:b] for a, b in pairwise(ends)], LOG_MEL: row[LOG_MEL]})
    return collate(samples, features)


def loader_settings(features: Features, workers: int) -> dict[str, Any]:
    """The arguments of a PyTorch `DataLoader`."""
    return {
        "batch_size": BATCH_SIZE,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "collate_fn": partial(collate_columns, features=features),
    }


def not_installed(name: str) -> dict[str, Pass]:
    print(f"{name} is not installed; the first lines of benchmarks/loader.py say how to install it", file=sys.stderr)
    return {}
