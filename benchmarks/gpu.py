"""Training on a GPU: fp32 eager against bf16, channels-last and torch.compile, on a set of VGAF's size.

example:
  .venv/bin/python benchmarks/gpu.py --peak-tflops 989
  ACCELERATE_USE_CPU=true .venv/bin/python benchmarks/gpu.py --clips 54 --batch-size 4 --steps 2    (a trial on a CPU)
reads:
  params.yaml, for the network
writes:
  Prints, for each variant: clips/s, images/s, the share of the time spent waiting for data, the time of an epoch, and
  with --peak-tflops the share of the peak (MFU). Prints the same as JSON.

The clips are drawn noise in real shards, which the real loader reads: 2,661 clips (VGAF's training split) of 16 frames
of 224 x 224.
"""

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from pipeline.clips.manifest import SPLITS, TRAIN, Clip, write_manifest
from pipeline.clips.splits import assign_roles, write_assignments
from pipeline.common.accelerator import start_accelerator
from pipeline.common.config import Config, RunId, load_config
from pipeline.common.features import Features
from pipeline.loading.loader import Loader
from pipeline.loading.plan import split_step
from pipeline.models.model import GroupEmotionModel
from pipeline.shards.format import Sample, Shard, write_shard
from pipeline.shards.index import ShardIndex, write_index
from pipeline.training.finish import device_name
from pipeline.training.loop import optimization_step
from pipeline.training.setup import Training, start_training

VARIANTS: dict[str, dict[str, Any]] = {
    "fp32, eager": {"mixed_precision": "no", "channels_last": False, "compile": False},
    "bf16": {"mixed_precision": "bf16", "channels_last": False, "compile": False},
    "bf16, channels-last": {"mixed_precision": "bf16", "channels_last": True, "compile": False},
    "bf16, channels-last, compiled": {"mixed_precision": "bf16", "channels_last": True, "compile": True},
}
VGAF_TRAIN_CLIPS, CLIPS_PER_SOURCE, CLIPS_PER_SHARD, WARM_UP_STEPS = 2661, 9, 45, 5
DISTINCT_CLIPS = 45  # drawing more would take longer than measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=VGAF_TRAIN_CLIPS, help=f"training clips ({VGAF_TRAIN_CLIPS})")
    parser.add_argument("--batch-size", type=int, default=32, help="clips per step (32)")
    parser.add_argument("--steps", type=int, default=60, help="steps that are measured (60)")
    parser.add_argument("--threads", type=int, default=8, help="threads that decode (8)")
    parser.add_argument("--peak-tflops", type=float, help="peak of the device in bf16, dense; an H100 SXM has 989")
    arguments = parser.parse_args()
    config = with_large_clips(load_config(), arguments)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the paths in a config are relative
        draw_shards(config, arguments.clips)
        for name, settings in VARIANTS.items():
            AcceleratorState._reset_state(reset_partial_state=True)
            variant = with_training(config, settings)
            training = start_training(variant, RunId(0), start_accelerator(variant), Path("run"), Path("checkpoints"))
            results[name] = measure(training, arguments)
            print(f"{name}: {', '.join(f'{key} {value}' for key, value in results[name].items())}", flush=True)
    print(json.dumps({"device": device_name(training.accelerator.device), "torch": torch.__version__, **results}))


def with_large_clips(config: Config, arguments: argparse.Namespace) -> Config:
    """The settings with clips of 16 frames of 224 x 224."""
    values = config.model_dump()
    values["recipe"]["features"] |= {"frames": 16, "frame_size_px": 224}
    values["recipe"]["model"] |= {"frames": 16}
    values["recipe"]["training"] |= {"batch_size": arguments.batch_size, "select_on": "none", "patience": 0}
    values["execution"] |= {"decode_threads": arguments.threads}
    return Config.model_validate(values | {"fit_on": "train_and_dev", "folds": None})


def with_training(config: Config, changes: dict[str, Any]) -> Config:
    """The settings with some of `recipe.training` changed."""
    training = config.recipe.training.model_copy(update=changes)
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"training": training})})


def draw_shards(config: Config, train_clips: int) -> None:
    """Write shards, manifests and splits of noise, in which the same `DISTINCT_CLIPS` clips occur again and again."""
    features, rng = config.recipe.features, np.random.default_rng(0)
    clips = [draw_jpegs(features, rng) for _ in range(DISTINCT_CLIPS)]
    log_mel = rng.normal(-40, 20, (features.mel_bins, features.max_mel_frames)).astype(np.float16)
    config.manifests.mkdir(parents=True)
    rows = {}
    for split in SPLITS:
        count = train_clips if split == TRAIN else CLIPS_PER_SHARD
        ids = [f"{number // CLIPS_PER_SOURCE}_{number % CLIPS_PER_SOURCE}" for number in range(count)]
        times_s = [float(second) for second in range(features.frames)]
        samples = [
            Sample(clip_id, 5.0, 25.0, clips[number % DISTINCT_CLIPS], times_s, log_mel)
            for number, clip_id in enumerate(ids)
        ]
        rows[split] = write_split(config, split, samples)
    write_assignments(assign_roles(rows, config), config.manifests)


def draw_jpegs(features: Features, rng: np.random.Generator) -> list[bytes]:
    """The frames of a clip of coarse noise."""
    size, quality = features.frame_size_px, [cv2.IMWRITE_JPEG_QUALITY, features.jpeg_quality]
    noise = [rng.integers(0, 255, (16, 16, 3), np.uint8) for _ in range(features.frames)]
    pictures = [cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) for coarse in noise]
    return [cv2.imencode(".jpg", picture, quality)[1].tobytes() for picture in pictures]


def write_split(config: Config, split: str, samples: list[Sample]) -> list[Clip]:
    """Write the shards and the manifest of a split; returns its clips."""
    folder = config.shards / split
    folder.mkdir(parents=True)
    starts = range(0, len(samples), CLIPS_PER_SHARD)
    shards: list[Shard] = [
        write_shard(folder, f"{split}-{number:06d}.tar", "noise", samples[start : start + CLIPS_PER_SHARD])
        for number, start in enumerate(starts)
    ]
    write_index(ShardIndex(folder, config.recipe.features, shards))
    ids, classes = [sample.clip_id for sample in samples], config.dataset.classes
    rows = [Clip(i, i.partition("_")[0], classes[n % len(classes)], f"{i}.mp4", 1, "0" * 64) for n, i in enumerate(ids)]
    write_manifest(rows, config.manifests / f"{split}.csv")
    return rows


def measure(training: Training, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure some steps with the real loader, after some that warm up."""
    config = training.config
    on_gpu = training.accelerator.device.type == "cuda"
    steps = WARM_UP_STEPS + arguments.steps
    parts, plan = split_step(arguments.batch_size, 0, 1, 1), plan_of_steps(training, steps)
    loader = Loader(config.recipe.features, arguments.threads, on_gpu, training.state.model.any_length)
    frames = training.frames_of_steps(0, steps)
    batches = loader.train_batches(training.clips.training, plan, frames, parts)
    training.wrapped.train()
    began = 0.0
    for number in range(steps):
        if number == WARM_UP_STEPS:
            synchronize(on_gpu)
            began, training.state.wait_s = time.perf_counter(), 0.0
        optimization_step(training, batches, parts)
    synchronize(on_gpu)
    seconds = time.perf_counter() - began
    step_s = seconds / arguments.steps
    figures = {
        "clips_per_s": round(arguments.batch_size / step_s, 1),
        "images_per_s": round(arguments.batch_size * config.recipe.model.frames / step_s),
        "data_wait_share": round(training.state.wait_s / seconds, 4),
        "epoch_s": round(step_s * training.steps_per_epoch, 1),
    }
    if arguments.peak_tflops:
        flops = step_flops(training, arguments.batch_size)
        figures["mfu"] = round(flops / step_s / (arguments.peak_tflops * 1e12), 4)
    return figures


def plan_of_steps(training: Training, steps: int) -> NDArray[np.int64]:
    """The clips of each of the first steps, of as many epochs as they take: (steps, batch_size)."""
    epochs = -(-steps // training.steps_per_epoch)
    return np.concatenate([training.plan_of_epoch(epoch) for epoch in range(epochs)])[:steps]


def synchronize(on_gpu: bool) -> None:
    """Wait until the GPU has finished its work."""
    if on_gpu:
        torch.cuda.synchronize()


def step_flops(training: Training, batch_size: int) -> float:
    """Floating-point operations of the matrix products and convolutions of a step, forward and backward."""
    config, device = training.config, training.accelerator.device
    recipe = config.recipe
    parts = split_step(batch_size, 0, 1, 1)
    batches = Loader(recipe.features, threads=1).train_batches(
        training.clips.training, plan_of_steps(training, 1), training.frames_of_steps(0, 1), parts
    )
    batch = next(batches).to(device)
    model = GroupEmotionModel(recipe.model, recipe.features, config.dataset.classes).to(device)
    with FlopCounterMode(display=False) as counter:
        model(batch).sum().backward()
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()
