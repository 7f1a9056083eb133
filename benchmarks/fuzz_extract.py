"""Hundreds of damaged and hostile files: does each of them end in a stated outcome?

`.venv/bin/python benchmarks/fuzz_extract.py [--files 500] [--seed 0]` takes half a minute on two cores. Clips of
several containers and codecs are mutated: bytes are changed or zeroed, pieces are cut out, doubled or taken from
another clip, ends are cut off, and sizes in headers are made huge. A file is unexplained if it is neither extracted nor
quarantined with a reason: another exception, a child that crashed or reached its time limit, a process that is left
behind.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from footage import run_ffmpeg

from pipeline.common.config import load_config
from pipeline.common.progress import track
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.reasons import REASONS, MediaError
from pipeline.extraction.sample_extraction import extract_sample
from pipeline.extraction.sandbox import Sandbox

TIMEOUT_S = 20.0
UNEXPLAINED_REASONS = {"crashed", "timeout"}
SEEDS = {
    "h264.mp4": ("-c:v", "libx264", "-c:a", "aac"),
    "fragmented.mp4": ("-c:v", "libx264", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"),
    "hevc.mkv": ("-c:v", "libx265", "-x265-params", "log-level=none", "-c:a", "flac"),
    "mpeg2.ts": ("-c:v", "mpeg2video", "-c:a", "mp2"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-c:a", "pcm_s16le"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-c:a", "libopus"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Extract mutated clips and count their outcomes.")
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = load_config()
    limits = config.extract.model_copy(update={"timeout_s": TIMEOUT_S})
    settings = ClipSettings(features=config.recipe.features, limits=limits)
    rng, outcomes, slowest_s = random.Random(arguments.seed), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
        sandbox = Sandbox()
        for number in track(range(arguments.files), "fuzz", arguments.files, "files"):
            name = rng.choice(sorted(seeds))
            mutant = Path(folder, f"mutant{Path(name).suffix}")
            mutant.write_bytes(mutate(seeds[name], rng.choice(list(seeds.values())), rng))
            start = time.monotonic()
            outcomes[extract(mutant, settings, sandbox, f"file {number}, from {name}")] += 1
            slowest_s = max(slowest_s, time.monotonic() - start)
        sandbox.close()
    left_behind = len(psutil.Process().children(recursive=True))
    for outcome, count in outcomes.most_common():
        print(f"{count:6}  {outcome}")
    print(f"slowest file {slowest_s:.1f} s, {left_behind} processes left behind")
    explained = {reason: count for reason, count in outcomes.items() if reason in REASONS.keys() - UNEXPLAINED_REASONS}
    result = {"files": arguments.files, "extracted": outcomes["extracted"], "quarantined": sum(explained.values())}
    result["unexplained"] = result["files"] - result["extracted"] - result["quarantined"] + left_behind
    print(json.dumps(result))


def extract(mutant: Path, settings: ClipSettings, sandbox: Sandbox, description: str) -> str:
    """The outcome of a file. An unexplained one is printed with `description`."""
    try:
        extract_sample(mutant, "1_1", settings, sandbox)
    except MediaError as error:
        if error.reason in UNEXPLAINED_REASONS:
            print(f"\n{description}: {error}")
        return error.reason if error.reason in REASONS else f"unknown reason {error.reason}"
    except Exception as error:
        print(f"\n{description}: {error!r}")
        return f"exception {type(error).__name__}"
    return "extracted"


def make_seeds(folder: Path) -> dict[str, bytes]:
    video = ("-f", "lavfi", "-i", "testsrc2=size=192x144:rate=25:duration=2,noise=alls=8:allf=t")
    sound = ("-f", "lavfi", "-i", "aevalsrc=0.4*sin(500*t*t):s=48000:d=2")
    for name, codecs in SEEDS.items():
        run_ffmpeg(*video, *sound, *codecs, folder / name)
    return {name: (folder / name).read_bytes() for name in SEEDS}


def mutate(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """A damaged copy: one to four changes, each of a random kind."""
    mutant = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(mutant)), 2 ** rng.randint(0, 12)
        if rng.random() < 0.3:
            at = rng.randrange(min(len(mutant), 2048))  # headers deserve more attempts than pictures
        match rng.randrange(7):
            case 0:
                for _ in range(rng.randint(1, 32)):
                    mutant[rng.randrange(len(mutant))] = rng.randrange(256)
            case 1:
                mutant[at : at + length] = bytes(len(mutant[at : at + length]))
            case 2:
                del mutant[at : at + length]
            case 3:
                mutant[at:at] = mutant[at : at + length]
            case 4:
                start = rng.randrange(len(other))
                mutant[at : at + length] = other[start : start + length]
            case 5:
                mutant[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"])
            case 6:
                del mutant[max(1, at) :]
        if not mutant:
            return b""
    return bytes(mutant)


if __name__ == "__main__":
    main()
