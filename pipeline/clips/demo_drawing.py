"""Drawing and encoding the clips of the demo set: real mp4 files, H.264 and AAC.

Everything that varies is drawn from random generators that are seeded by the settings, the source and the clip. The
files have the same bytes on every x86-64 processor. Pixels and sound samples are rounded to integers, so differences in
the last bit of a float disappear. Functions whose rounding depends on the processor (powers, OpenCV's interpolation)
are not applied to whole arrays, and sines are read from a rounded table. The encoders run in bit-exact modes.
"""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2
import ffmpeg
import numpy as np
from numpy.typing import NDArray

from pipeline.clips.demo_set import DemoClip, plan_clips, prepare_root, write_label_files
from pipeline.common.config import DemoSettings
from pipeline.common.machine import available_cores, ffmpeg_path
from pipeline.common.processes import run_on_this_machine
from pipeline.common.progress import track

FRAME_RATES = ("24000/1001", "25", "30000/1001", "30")  # those of VGAF
ASPECT_RATIOS = (4 / 3, 16 / 9)
AUDIO_RATE_HZ = 44_100
FULL_SCALE = 32_767  # the largest 16-bit sample
MOST_FACES = 3
# One period in 65,536 steps. Its values are rounded to multiples of 1 / FULL_SCALE, because np.sin's last bit differs
# between processors.
SINE = np.round(FULL_SCALE * np.sin(2 * np.pi * np.arange(65_536) / 65_536)) / FULL_SCALE


def draw_set(name: str, settings: DemoSettings, root: Path) -> None:
    """Draw a set into `root`, on all cores; `name` is for the progress line.

    An earlier drawn set in `root` is replaced. Raises `UserError` if other files are in it, and for a number of clips
    that is not a multiple of 9.
    """
    clips = plan_clips(settings)
    prepare_root(root)
    write_label_files(clips, root)
    draw = functools.partial(draw_clip, settings=settings, root=root)
    drawn = run_on_this_machine(draw, clips, available_cores(), preload=__name__)
    for _ in track(drawn, f"synthesize {name}", len(clips), "clips"):
        pass


def draw_clip(clip: DemoClip, settings: DemoSettings, root: Path) -> None:
    """Draw and encode one clip to its place under `root`. The same settings give the same bytes."""
    source = np.random.default_rng([settings.seed, 1, clip.source])
    rng = np.random.default_rng([settings.seed, 2, *map(int, clip.clip_id.split("_"))])
    frame_rate = str(source.choice(FRAME_RATES))
    duration_s = float(rng.uniform(3, 5))
    scene = _Scene(source, settings.frame_height_px)
    numerator, _, denominator = frame_rate.partition("/")
    frames = scene.draw(rng, clip.visual_valence, duration_s, int(numerator) / int(denominator or 1))
    sound = draw_sound(source, rng, clip.audio_valence, duration_s) if clip.has_audio else None
    _encode(frames, frame_rate, sound, root / clip.split.capitalize() / f"{clip.clip_id}.mp4")


class _Scene:
    """What the clips of a source share: the background, and the places, sizes and skin colours of the people."""

    def __init__(self, rng: np.random.Generator, height: int) -> None:
        self.height = height
        self.width = 2 * round(height * rng.choice(ASPECT_RATIOS) / 2)
        corners = rng.uniform(30, 225, (2, 2, 3))
        top, bottom = (_blend(left, right, self.width) for left, right in corners)
        background = _blend(top, bottom, self.height)
        grain = rng.normal(0, 4, background.shape)
        self.background = np.asarray(np.clip(background + grain, 0, 255), np.uint8)
        self.noise = [np.asarray(rng.normal(0, 2, background.shape), np.int16) for _ in range(3)]
        faces = int(rng.integers(2, MOST_FACES + 1))
        slot = self.width / faces
        self.radius = rng.uniform(0.8, 1.0, faces) * min(0.28 * height, 0.45 * slot)
        self.x = (np.arange(faces) + rng.uniform(0.42, 0.58, faces)) * slot
        self.y = rng.uniform(0.38, 0.62, faces) * height
        self.skin = rng.uniform((90, 120, 150), (190, 210, 250), (faces, 3))

    def draw(self, rng: np.random.Generator, valence: int, duration_s: float, frames_per_s: float) -> NDArray[np.uint8]:
        """Frames (T, height, width, 3), BGR, in which each mouth curves with the group's valence, plus some noise."""
        count = round(duration_s * frames_per_s)
        faces = len(self.x)
        curvature = 0.8 * valence + rng.normal(0, 0.12, faces)
        sway = rng.uniform(0.01, 0.03, (faces, 2)) * self.height
        frequency_hz, phase_turns = rng.uniform(0.2, 0.8, (faces, 2)), rng.uniform(0, 1, (faces, 2))
        blink_s = rng.uniform(0, duration_s, faces)
        light = rng.uniform(0.75, 1.15)
        background = np.asarray(np.clip(np.round(light * np.arange(256)), 0, 255), np.uint8)[self.background]
        skin = np.clip(light * self.skin, 0, 255)
        x, y = self.x + rng.normal(0, 0.01, faces) * self.width, self.y + rng.normal(0, 0.03, faces) * self.height
        frames = np.empty((count, self.height, self.width, 3), np.uint8)
        for t in range(count):
            seconds = t / frames_per_s
            frames[t] = background
            shift = sway * _sine(frequency_hz * seconds + phase_turns)
            for i in range(faces):
                centre = (x[i] + shift[i, 0], y[i] + shift[i, 1])
                eyes_open = abs(seconds - blink_s[i]) > 0.12
                _draw_face(frames[t], centre, self.radius[i], skin[i], curvature[i], eyes_open)
            cv2.add(frames[t], self.noise[t % len(self.noise)], dst=frames[t], dtype=cv2.CV_8U)
        return frames


def _blend(first: NDArray[np.float64], last: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Colours (steps, ...) that change evenly from the first to the last."""
    share = np.linspace(0, 1, steps).reshape(-1, *[1] * first.ndim)
    return (1 - share) * first + share * last


def _sine(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sine of an angle that is given in full turns."""
    return SINE[np.asarray(np.floor(turns * len(SINE)), np.int64) % len(SINE)]


def _draw_face(
    frame: NDArray[np.uint8],
    centre: tuple[float, float],
    radius: float,
    skin: NDArray[np.float64],
    curvature: float,
    eyes_open: bool,
) -> None:
    x, y = centre
    dark = (40, 30, 40)
    cv2.ellipse(
        frame, (round(x), round(y)), (round(0.85 * radius), round(radius)), 0, 0, 360, skin.tolist(), -1, cv2.LINE_AA
    )
    for side in (-1, 1):
        eye = (round(x + side * 0.35 * radius), round(y - 0.25 * radius))
        height = 0.13 if eyes_open else 0.03
        cv2.ellipse(frame, eye, (round(0.1 * radius), max(1, round(height * radius))), 0, 0, 360, dark, -1, cv2.LINE_AA)
    across = np.linspace(-1, 1, 13)
    mouth = np.stack([x + 0.5 * radius * across, y + radius * (0.45 + 0.3 * curvature * (0.5 - across**2))], axis=1)
    thickness = max(2, round(0.12 * radius))
    cv2.polylines(frame, [np.round(mouth).astype(np.int32)], False, dark, thickness, cv2.LINE_AA)


def draw_sound(
    source: np.random.Generator, rng: np.random.Generator, valence: int, duration_s: float
) -> NDArray[np.int16]:
    """A mono soundtrack (samples,) at `AUDIO_RATE_HZ`: tones that glide up, stay level or glide down, over noise.

    `source` gives the timbre, which all clips of a source share, and `rng` everything else.
    """
    samples = round(duration_s * AUDIO_RATE_HZ)
    harmonics = np.cumprod([1, *[source.uniform(0.2, 0.9)] * 3])
    # Each sample of the noise is the sum of 16 uniform numbers. Their deviation is about 577, that of the sum 2,309.
    sums = np.cumsum(rng.integers(-1000, 1001, samples + 16))
    sound = (sums[16:] - sums[:-16]) / 2309 * source.uniform(0.002, 0.01)
    events = int(rng.integers(4, 8))
    starts_s = (np.arange(events) + rng.uniform(0.05, 0.4, events)) * duration_s / events
    for start_s in starts_s:
        length = round(rng.uniform(0.3, 0.5) * duration_s / events * AUDIO_RATE_HZ)
        ramp = np.linspace(0, 1, length)
        glide = valence * rng.uniform(0.35, 0.6) + rng.normal(0, 0.035)  # as a share of the pitch in the middle
        pitch_hz = rng.uniform(250, 500) * (1 + glide * (ramp - 0.5))
        turns = np.cumsum(pitch_hz) / AUDIO_RATE_HZ
        tone = sum(level * _sine((k + 1) * turns) for k, level in enumerate(harmonics))
        loudness, envelope = np.square(rng.uniform(0.18, 0.45)), np.square(_sine(ramp / 2))
        start = round(start_s * AUDIO_RATE_HZ)
        sound[start : start + length] += loudness * (tone * envelope)[: samples - start]
    return np.asarray(np.round(FULL_SCALE * np.clip(sound, -1, 1)), np.int16)


def _encode(frames: NDArray[np.uint8], frame_rate: str, sound: NDArray[np.int16] | None, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="draw-") as folder:
        height, width = frames.shape[1:3]
        streams = [
            ffmpeg.input("pipe:", format="rawvideo", pix_fmt="bgr24", s=f"{width}x{height}", framerate=frame_rate)
        ]
        if sound is not None:
            audio_file = Path(folder, "sound.s16le")
            sound.tofile(audio_file)
            streams.append(ffmpeg.input(str(audio_file), format="s16le", ar=AUDIO_RATE_HZ, ac=1))
        encoded = Path(folder, "clip.mp4")
        codecs = {"vcodec": "libx264", "preset": "veryfast", "crf": 28, "pix_fmt": "yuv420p", "threads": 1}
        codecs |= {"x264-params": "cpu-independent=1", "sws_flags": "+accurate_rnd+bitexact"}
        if sound is not None:
            codecs |= {"acodec": "aac", "audio_bitrate": "96k", "aac_coder": "fast"}
        # Bit-exact: without encoder version and time in the file, a set that is drawn again has the same bytes.
        output = ffmpeg.output(*streams, str(encoded), **codecs, fflags="+bitexact", flags="+bitexact")
        # AAC is computed in floats: without code for particular processors (cpuflags 0) it rounds the same everywhere.
        command = output.global_args("-loglevel", "error", "-cpuflags", "0").compile(cmd=ffmpeg_path())
        subprocess.run(command, input=frames.tobytes(), check=True)
        shutil.move(encoded, target)
