"""Training on a GPU: fp32 eager against bf16, channels-last and torch.compile, on a set of VGAF's size.

`.venv/bin/python benchmarks/gpu.py` on a machine with a GPU; --peak-tflops gives the share of its peak (MFU), and
`ACCELERATE_USE_CPU=true ... --clips 54 --batch-size 4 --steps 2` only tries the script out. The clips are drawn noise
in real shards, read by the real loader: 2,661 clips (VGAF's train split) of 16 frames of 224 x 224. The network is that
of params.yaml. For each variant: clips/s, images/s, the share of the time waiting for data, what an epoch takes, MFU.
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
from torch.utils.flop_counter import FlopCounterMode

from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import SPLITS, Clip, write_manifest
from pipeline.common.config import Config, load_config
from pipeline.loading.loader import split_step, train_batches
from pipeline.models.model import GroupEmotionModel
from pipeline.shards.format import Sample, Shard, ShardIndex, write_index, write_shard
from pipeline.training.distributed import start_accelerator
from pipeline.training.loop import Run, device_name, optimization_step, plan_of_epoch, start_run

VARIANTS: dict[str, dict[str, Any]] = {
    "fp32, eager": {"mixed_precision": "no", "channels_last": False, "compile": False},
    "bf16": {"mixed_precision": "bf16", "channels_last": False, "compile": False},
    "bf16, channels-last": {"mixed_precision": "bf16", "channels_last": True, "compile": False},
    "bf16, channels-last, compiled": {"mixed_precision": "bf16", "channels_last": True, "compile": True},
}
VGAF_TRAIN_CLIPS, CLIPS_PER_SOURCE, CLIPS_PER_SHARD, DISTINCT, WARM_UP_STEPS = 2661, 9, 45, 45, 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure training on a GPU.")
    parser.add_argument("--clips", type=int, default=VGAF_TRAIN_CLIPS)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60, help="measured ones (default: 60)")
    parser.add_argument("--threads", type=int, default=8, help="that decode (default: 8)")
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16, dense; an H100 SXM has 989")
    arguments = parser.parse_args()
    config = sized(load_config(), arguments)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # a config's paths are relative
        draw_shards(config, arguments.clips)
        for name, settings in VARIANTS.items():
            AcceleratorState._reset_state(reset_partial_state=True)
            variant = changed(config, settings)
            run = start_run(variant, start_accelerator(variant), Path("checkpoints"))
            results[name] = measure(run, arguments)
            print(f"{name}: {', '.join(f'{key} {value}' for key, value in results[name].items())}", flush=True)
    print(json.dumps({"device": device_name(run.accelerator.device), "torch": torch.__version__, **results}))


def sized(config: Config, arguments: argparse.Namespace) -> Config:
    """The settings for clips of 16 frames of 224 x 224."""
    values = config.model_dump()
    values["recipe"]["features"] |= {"frames": 16, "frame_size_px": 224}
    values["recipe"]["training"] |= {"batch_size": arguments.batch_size, "select_on": "val"}
    values["execution"] |= {"decode_threads": arguments.threads}
    return Config.model_validate(values)


def changed(config: Config, settings: dict[str, Any]) -> Config:
    training = config.recipe.training.model_copy(update=settings)
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"training": training})})


def draw_shards(config: Config, clips: int) -> None:
    """Shards and manifests of noise; `DISTINCT` clips again and again, as drawing is not what is measured."""
    features, rng = config.recipe.features, np.random.default_rng(0)
    size, times_s = features.frame_size_px, [float(i) for i in range(features.frames)]
    jpegs = []
    for _ in range(DISTINCT * features.frames):
        coarse = rng.integers(0, 255, (16, 16, 3), np.uint8)
        picture = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        jpegs.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, features.jpeg_quality])[1].tobytes())
    log_mel = rng.normal(-40, 20, (features.mel_bins, features.max_mel_frames)).astype(np.float16)
    config.manifests.mkdir(parents=True)
    for split in SPLITS:
        folder = config.shards / split
        folder.mkdir(parents=True)
        count = clips if split == SPLITS[0] else CLIPS_PER_SHARD
        ids = [f"{number // CLIPS_PER_SOURCE}_{number % CLIPS_PER_SOURCE}" for number in range(count)]
        shards: list[Shard] = []
        for start in range(0, count, CLIPS_PER_SHARD):
            chosen = range(start, min(start + CLIPS_PER_SHARD, count))
            firsts = [number % DISTINCT * features.frames for number in chosen]
            samples = [
                Sample(ids[number], 5.0, 25.0, jpegs[first : first + features.frames], times_s, log_mel)
                for number, first in zip(chosen, firsts, strict=True)
            ]
            shards.append(write_shard(folder, f"{split}-{len(shards):06d}.tar", "noise", samples))
        write_index(ShardIndex(folder, features, shards))
        rows = [Clip(i, i.partition("_")[0], CLASSES[n % 3], f"{i}.mp4", 1, "0" * 64) for n, i in enumerate(ids)]
        write_manifest(rows, config.manifests / f"{split}.csv")


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, float]:
    """Some steps with the real loader, after some that warm up."""
    config, device = run.config, run.accelerator.device
    on_gpu = device.type == "cuda"
    parts = split_step(arguments.batch_size, 0, 1, 1)
    epochs = 1 + (WARM_UP_STEPS + arguments.steps) // run.steps_per_epoch
    plan = np.concatenate([plan_of_epoch(run, epoch) for epoch in range(epochs)])[: WARM_UP_STEPS + arguments.steps]
    batches = train_batches(run.data.training, plan, parts, config.recipe.features, arguments.threads, on_gpu)
    run.trained.train()
    began = 0.0
    for number in range(len(plan)):
        if number == WARM_UP_STEPS:
            synchronize(on_gpu)
            began, run.wait_s = time.perf_counter(), 0.0
        optimization_step(run, batches, parts)
    synchronize(on_gpu)
    seconds = time.perf_counter() - began
    step_s = seconds / arguments.steps
    figures = {
        "clips_per_s": round(arguments.batch_size / step_s, 1),
        "images_per_s": round(arguments.batch_size * config.recipe.features.frames / step_s),
        "data_wait_share": round(run.wait_s / seconds, 4),
        "epoch_s": round(step_s * run.steps_per_epoch, 1),
    }
    if arguments.peak_tflops:
        figures["mfu"] = round(step_flops(run, arguments.batch_size) / step_s / (arguments.peak_tflops * 1e12), 4)
    return figures


def synchronize(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def step_flops(run: Run, batch_size: int) -> float:
    """Floating-point operations of the matrix products and convolutions of a step, forwards and backwards."""
    recipe, device = run.config.recipe, run.accelerator.device
    plan, parts = plan_of_epoch(run, 0)[:1], split_step(batch_size, 0, 1, 1)
    batch = next(train_batches(run.data.training, plan, parts, recipe.features, 1)).to(device)
    model = GroupEmotionModel(recipe.model, recipe.features).to(device)
    with FlopCounterMode(display=False) as counter:
        model(batch).sum().backward()
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()
