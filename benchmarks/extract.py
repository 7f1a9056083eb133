"""What extraction costs compared with decoding alone, the usual way and other libraries; its speed-up; its memory.

    make benchmarks
    LD_LIBRARY_PATH=$PWD/.venv-benchmarks/ffmpeg .venv-benchmarks/bin/python benchmarks/extract.py [--group 12]

It takes some ten minutes on two cores. All ways extract the same clips in one interleaved run. What counts is the CPU
time of all processes. Each ratio is taken within one repeat, and the median over the repeats is printed. The first
line installs torchcodec and decord; the variable is where torchcodec finds FFmpeg's libraries, which are PyAV's. If
the face detector has been fetched, the stage is also measured with people, of whom it stores at most 8 in a frame;
`people_vs_without_360p` and `..._720p` are its CPU time relative to that of the stage without people.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import librosa
import numpy as np
import psutil
from footage import GROUP, cut_clip, draw_clip, run_ffmpeg
from threadpoolctl import threadpool_limits

from pipeline.clips.manifest import Clip
from pipeline.common.config import load_config
from pipeline.common.errors import UserError
from pipeline.common.features import Features
from pipeline.common.files import sha256_of
from pipeline.common.machine import available_cores, ffmpeg_path
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.face_detector import check_detector
from pipeline.extraction.log_mel import log_mel
from pipeline.extraction.sandbox import CHILD_MODULE
from pipeline.extraction.splits import extract_splits
from pipeline.extraction.tasks import extract_shard, plan_tasks

SECONDS, HEIGHTS = 5.0, (360, 720)
FEATURES = {"frames": 8, "frame_size_px": 256, "framing": "center_crop", "mel_bins": 80}
PEOPLE = {"most": 8, "size_px": 96}
FEW, MANY = 100, 10_000
FLOOR, OURS, WITH_PEOPLE, USUAL = "floor: ffmpeg decodes", "this stage", "this stage with people", "usual way"

# A way to extract clips: called with their files.
Way = Callable[[list[Path]], None]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure extraction.")
    parser.add_argument("--footage", type=Path, nargs="*", default=[], help="recordings with sound to cut clips from")
    parser.add_argument("--clips", type=int, default=16, help="number of clips of each height")
    parser.add_argument("--group", type=int, default=GROUP, help=f"frames of a group of pictures, at most ({GROUP})")
    parser.add_argument("--repeats", type=int, default=5, help="number of repeats of the comparison")
    parser.add_argument(
        "--many", type=int, default=MANY, help=f"clips whose peak memory is compared with that of {FEW}"
    )
    arguments = parser.parse_args()
    config = load_config()
    settings = ClipSettings(features=config.recipe.features.model_copy(update=FEATURES), limits=config.extract)
    with tempfile.TemporaryDirectory() as name:
        folder, result = Path(name), {}
        for height in HEIGHTS:
            clips = make_clips(folder, arguments.footage, height, arguments.clips, arguments.group)
            seconds = compare(clips, folder, settings, arguments.repeats)
            result[f"cpu_vs_floor_{height}p"] = ratio(seconds, OURS, FLOOR)
            result[f"ffmpeg_vs_floor_{height}p"] = ratio(seconds, f"{OURS}, decoder ffmpeg", FLOOR)
            if WITH_PEOPLE in seconds:
                result[f"people_vs_without_{height}p"] = ratio(seconds, WITH_PEOPLE, OURS)
            if height == HEIGHTS[0]:
                result["usual_vs_ours"] = ratio(seconds, USUAL, OURS)
                result |= speed_up(clips, folder, settings)
        result |= memory(folder, settings, arguments.many)
    print(json.dumps({key: round(value, 3) for key, value in result.items()}))


def make_clips(folder: Path, footage: list[Path], height: int, count: int, group: int) -> list[Clip]:
    clips = []
    for number in range(count):
        path = folder / f"{height}_{number}.mp4"
        if footage:
            cut_clip(footage[number % len(footage)], number // len(footage), SECONDS, height, path, group)
        else:
            draw_clip(number, SECONDS, height, path, group)
        clips.append(Clip(path.stem, f"{height}", "neutral", path.name, path.stat().st_size, sha256_of(path)))
    kbits = sum(clip.bytes for clip in clips) * 8 / 1000 / count / SECONDS
    print(f"\n{count} {'cut' if footage else 'drawn'} clips of {height}p, {SECONDS:.0f} s, {kbits:.0f} kbit/s")
    return clips


# ------------------------------------------------------------------------------------------------------- CPU per clip


def cpu_s() -> float:
    """CPU seconds so far of this process and all its children, both running and ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    running = [child.cpu_times() for child in psutil.Process().children()]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + sum(
        times.user + times.system + times.children_user + times.children_system for times in running
    )


def compare(clips: list[Clip], folder: Path, settings: ClipSettings, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each way in each repeat."""
    ways: dict[str, Way] = {
        FLOOR: decode_only,
        OURS: this_stage(clips, folder, settings, "in_process"),
        f"{OURS}, decoder ffmpeg": this_stage(clips, folder, settings, "ffmpeg"),
        **stage_with_people(clips, folder, settings),
        USUAL: partial(usual_way, features=settings.features),
        **peers(settings.features),
    }
    paths = [folder / clip.path for clip in clips]
    for way in ways.values():
        way(paths[:1])  # what each process pays once: imports, compilation, starting a child
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            before = cpu_s()
            # As in the workers of the stage: a second thread of BLAS would only wait, and wait busily.
            with threadpool_limits(1):
                way(paths)
            seconds[name].append(cpu_s() - before)
    for name in seconds:
        cpu_ms = 1000 * median(seconds[name]) / len(clips)
        print(f"{name:28} {cpu_ms:8.1f} CPU-ms per clip   {ratio(seconds, name, FLOOR):5.2f} x the floor")
    return seconds


def ratio(seconds: dict[str, list[float]], first: str, second: str) -> float:
    """Median over the repeats of the CPU time of one way relative to that of another."""
    return median(a / b for a, b in zip(seconds[first], seconds[second], strict=True))


def decode_only(paths: list[Path]) -> None:
    for path in paths:
        subprocess.run(
            [ffmpeg_path(), "-loglevel", "error", "-threads", "1", "-i", path, "-f", "null", "-"], check=True
        )


def this_stage(clips: list[Clip], folder: Path, settings: ClipSettings, decoder: str) -> Way:
    """The work of one worker of the extract stage, on all clips."""
    limits = settings.limits.model_copy(update={"decoder": decoder, "clips_per_shard": len(clips)})
    changed = settings.model_copy(update={"limits": limits})
    (task,) = plan_tasks("clips", clips, folder, folder / "shards", changed)

    def extract(_: list[Path]) -> None:
        extract_shard(task)

    return extract


def stage_with_people(clips: list[Clip], folder: Path, settings: ClipSettings) -> dict[str, Way]:
    """The stage that also looks for people, if it can."""
    people = settings.features.people.model_copy(update=PEOPLE)
    settings = settings.model_copy(update={"features": settings.features.model_copy(update={"people": people})})
    try:
        check_detector(settings)
    except UserError as error:
        print(f"{WITH_PEOPLE}: not measured ({error})")
        return {}
    return {WITH_PEOPLE: this_stage(clips, folder, settings, "in_process")}


def usual_way(paths: list[Path], features: Features) -> None:
    """Write every frame to a JPEG file and the sound to a WAV file, and read that with librosa."""
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            run_ffmpeg("-threads", "1", "-i", path, "-q:v", "2", f"{folder}/%05d.jpg")
            run_ffmpeg("-i", path, "-vn", "-ar", f"{features.sample_rate_hz}", "-ac", "1", f"{folder}/sound.wav")
            waveform, _ = librosa.load(f"{folder}/sound.wav", sr=features.sample_rate_hz)
            log_mel(waveform, features)


def peers(features: Features) -> dict[str, Way]:
    """Libraries that decode frames by number or time; sampling, scaling, JPEG and log-mel are the same as here."""
    ways: dict[str, Way] = {}
    for name, make in (("torchcodec", torchcodec_way), ("decord", decord_way)):
        try:
            ways[name] = make(features)
        except (ImportError, RuntimeError, OSError) as error:
            print(f"{name}: not measured ({str(error).splitlines()[0]})")
    return ways


def torchcodec_way(features: Features) -> Way:
    from torchcodec.decoders import AudioDecoder, VideoDecoder

    def extract(paths: list[Path]) -> None:
        for path in map(str, paths):
            decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate")
            frames = decoder.get_frames_played_at(midpoints(decoder.metadata.duration_seconds, features.frames))
            encode(frames.data.permute(0, 2, 3, 1).numpy(), features)
            sound = AudioDecoder(path, sample_rate=features.sample_rate_hz, num_channels=1).get_all_samples()
            log_mel(sound.data[0].numpy(), features)

    return extract


def decord_way(features: Features) -> Way:
    from decord import AudioReader, VideoReader

    def extract(paths: list[Path]) -> None:
        for path in map(str, paths):
            reader = VideoReader(path, num_threads=1)
            times = midpoints(len(reader) / reader.get_avg_fps(), features.frames)
            encode(reader.get_batch([int(t * reader.get_avg_fps()) for t in times]).asnumpy(), features)
            sound = AudioReader(path, sample_rate=features.sample_rate_hz, mono=True)
            log_mel(sound[:].asnumpy()[0], features)

    return extract


def midpoints(duration_s: float, count: int) -> list[float]:
    return [(i + 0.5) * duration_s / count for i in range(count)]


def encode(frames: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", features: Features) -> None:
    size = features.frame_size_px
    for frame in frames:
        height, width = frame.shape[:2]
        scale = size / min(height, width)
        small = cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        cv2.imencode(".jpg", small[:size, :size], [cv2.IMWRITE_JPEG_QUALITY, features.jpeg_quality])


# ------------------------------------------------------------------------------------------------ workers and memory


def speed_up(clips: list[Clip], folder: Path, settings: ClipSettings) -> dict[str, float]:
    """Clips per second with two workers, relative to one worker and to two processes that only decode."""
    many = [replace(clip, clip_id=f"{i}_{clip.clip_id}") for i in range(16) for clip in clips]
    settings = settings.model_copy(update={"limits": settings.limits.model_copy(update={"clips_per_shard": 8})})
    paths = [folder / clip.path for clip in many]
    rates: dict[str, list[float]] = {"one": [], "two": [], "floor": []}

    def rate(work: Callable[[], object]) -> float:
        start = time.monotonic()
        work()
        return len(many) / (time.monotonic() - start)

    def extract_with(workers: int, clips: list[Clip]) -> None:
        target = folder / "speed"
        shutil.rmtree(target, ignore_errors=True)
        extract_splits({"x": clips}, folder, target, settings, workers)

    start = time.monotonic()
    extract_with(1, many[:1])  # the fork server imports librosa once per run
    print(f"\nstart of a run: {time.monotonic() - start:.1f} s")
    for _ in range(3):
        for name, workers in (("one", 1), ("two", 2)):
            rates[name].append(rate(partial(extract_with, workers, many)))
        with ThreadPoolExecutor(2) as pool:
            rates["floor"].append(rate(lambda: list(pool.map(lambda path: decode_only([path]), paths))))
    print(f"{len(many)} clips, clips/s: " + ", ".join(f"{name} {median(r):.1f}" for name, r in rates.items()))
    return {
        "two_workers_vs_one": median(two / one for two, one in zip(rates["two"], rates["one"], strict=True)),
        "two_workers_vs_two_floors": median(two / f for two, f in zip(rates["two"], rates["floor"], strict=True)),
    }


def memory(folder: Path, settings: ClipSettings, many: int) -> dict[str, float]:
    """Peak resident memory, in MB, of a worker with its child and of the main process, with few and with many clips."""
    path = folder / "short.mp4"
    run_ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=0.4"),
        *("-f", "lavfi", "-i", "sine=duration=0.4", "-c:v", "libx264", "-c:a", "aac", path),
    )
    result = {}
    for count in (FEW, many):
        clips = [Clip(f"1_{i}", "1", "neutral", path.name, 0, "") for i in range(count)]
        arguments = ({"x": clips}, folder, folder / f"memory-{count}", settings, available_cores())
        process = multiprocessing.get_context("spawn").Process(target=extract_splits, args=arguments)
        process.start()
        peaks = {"worker": 0.0, "main": 0.0}
        while process.is_alive():
            for name, size in resident_mb(psutil.Process(process.pid)).items():
                peaks[name] = max(peaks[name], size)
            time.sleep(0.1)
        print(f"{count} clips: peak {peaks['worker']:.0f} MB per worker, {peaks['main']:.0f} MB in the main process")
        result[f"peak_mb_{count}"] = peaks["worker"]
        result[f"main_peak_mb_{count}"] = peaks["main"]
    return result


def resident_mb(main_process: psutil.Process) -> dict[str, float]:
    """Resident memory at this moment of the main process, and of the largest worker with the child that reads clips."""
    try:
        readers = [child for child in main_process.children(recursive=True) if CHILD_MODULE in child.cmdline()]
        pairs = [(reader, psutil.Process(reader.ppid())) for reader in readers]
        workers = [(reader.memory_info().rss + worker.memory_info().rss) / 1e6 for reader, worker in pairs]
        return {"main": main_process.memory_info().rss / 1e6, "worker": max(workers, default=0.0)}
    except psutil.NoSuchProcess:
        return {}


if __name__ == "__main__":
    main()
