"""A drawn data set in VGAF's layout, whose label needs both modalities.

Each clip has a visual valence v and an audio valence a in {-1, 0, +1}, independent and uniform. v is how the faces of a
group look (frown, straight, smile), a is how the soundtrack's events glide (down, level, up), and the label is the sign
of v + a. Whoever knows v alone is right at best with probability 5/9 = 55.6% (v = +1 leaves positive 2/3 and neutral
1/3; v = 0 leaves all three at 1/3), and the same holds for a. Every pair (v, a) occurs equally often in each split, so
the ceiling is exact. Faces, places, colours, sizes, noise, loudness, times, frame rates and durations vary; train and
val have different sources. About one clip in fifty, of those with a = 0, has no audio track.
"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import ffmpeg
import numpy as np
from numpy.typing import NDArray

from pipeline.clips.labels import CLASSES, HEADER
from pipeline.clips.manifest import SPLITS, label_path
from pipeline.common.config import DemoSet
from pipeline.common.errors import UserError
from pipeline.common.machine import ffmpeg_path

VALENCES = (-1, 0, 1)
FRAME_RATES = ("24000/1001", "25", "30000/1001", "30")  # VGAF's
ASPECT_RATIOS = (4 / 3, 16 / 9)
AUDIO_RATE_HZ = 44_100
SILENT_SHARE = 0.02
MOST_FACES = 3
# Tells a drawn set, which may be replaced, from somebody's recordings, which may not.
MARKER = "DRAWN.txt"


@dataclass(frozen=True)
class DemoClip:
    """A clip to be drawn; `has_audio` is False only where `audio_valence` is 0."""

    clip_id: str
    split: str
    visual_valence: int
    audio_valence: int
    has_audio: bool

    @property
    def label(self) -> str:
        """The class of sign(v + a)."""
        return {1: "positive", 0: "neutral", -1: "negative"}[int(np.sign(self.visual_valence + self.audio_valence))]

    @property
    def source(self) -> int:
        """The number of the scene that it is drawn in."""
        return int(self.clip_id.split("_")[0])


def plan_clips(settings: DemoSet) -> list[DemoClip]:
    """All clips of the set; every pair of valences equally often in each split, sources numbered through."""
    clips, first_source = [], 1
    for split, count in zip(SPLITS, (settings.train_clips, settings.val_clips), strict=True):
        if count % len(VALENCES) ** 2:
            raise UserError(
                f"dataset.synthesize: {split}_clips is {count}, expected a multiple of 9 (pairs of valences)"
            )
        pairs = [(v, a) for v in VALENCES for a in VALENCES] * (count // 9)
        order = np.random.default_rng([settings.seed, first_source]).permutation(count)
        level_sounds = count // len(VALENCES)
        silent_every = level_sounds // max(1, round(SILENT_SHARE * count))
        level_sound = 0
        for position, pair in enumerate(order):
            visual, audio = pairs[pair]
            level_sound += audio == 0
            silent = audio == 0 and level_sound % silent_every == 0
            source = first_source + position // settings.clips_per_source
            clip_id = f"{source}_{1 + position % settings.clips_per_source}"
            clips.append(DemoClip(clip_id, split, visual, audio, not silent))
        first_source = 1 + clips[-1].source
    return clips


def prepare_root(root: Path) -> None:
    """Make `root` with its empty folders of clips; an earlier drawn set there is removed, anything else is refused."""
    marker = root / MARKER
    if root.exists() and any(root.iterdir()) and not marker.exists():
        raise UserError(
            f"dataset.root {root} holds files that were not drawn here, and drawing would replace them; "
            "for a recorded set add -S dataset=vgaf, or name another folder"
        )
    shutil.rmtree(root, ignore_errors=True)
    for split in SPLITS:
        (root / split.capitalize()).mkdir(parents=True)
    marker.write_text("This data set is drawn by the synthesize stage, which replaces the folder when it runs again.\n")


def write_label_files(clips: list[DemoClip], root: Path) -> None:
    """Write Train_labels.txt and Val_labels.txt as VGAF has them: one space, no final newline."""
    for split in SPLITS:
        lines = [f"{clip.clip_id} {CLASSES.index(clip.label) + 1}" for clip in clips if clip.split == split]
        label_path(root, split).write_text("\n".join([" ".join(HEADER), *lines]))


def draw_clip(clip: DemoClip, settings: DemoSet, root: Path) -> None:
    """Draw and encode one clip (H.264 and AAC) under `root`; the same settings give the same clip."""
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
    """What the clips of a source share: the background, and where and how the people are."""

    def __init__(self, rng: np.random.Generator, height: int) -> None:
        self.height = height
        self.width = 2 * round(height * rng.choice(ASPECT_RATIOS) / 2)
        corners = rng.uniform(30, 225, (2, 2, 3)).astype(np.float32)
        background = cv2.resize(corners, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
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
        """Frames (T, height, width, 3), BGR: each face's mouth curves with the group's valence, give or take."""
        count = round(duration_s * frames_per_s)
        faces = len(self.x)
        curvature = 0.8 * valence + rng.normal(0, 0.12, faces)
        sway = rng.uniform(0.01, 0.03, (faces, 2)) * self.height
        frequency_hz, phase = rng.uniform(0.2, 0.8, (faces, 2)), rng.uniform(0, 2 * np.pi, (faces, 2))
        blink_s = rng.uniform(0, duration_s, faces)
        light = rng.uniform(0.75, 1.15)
        background = cv2.convertScaleAbs(self.background, alpha=light)
        skin = np.clip(light * self.skin, 0, 255)
        x, y = self.x + rng.normal(0, 0.01, faces) * self.width, self.y + rng.normal(0, 0.03, faces) * self.height
        frames = np.empty((count, self.height, self.width, 3), np.uint8)
        for t in range(count):
            seconds = t / frames_per_s
            frames[t] = background
            shift = sway * np.sin(2 * np.pi * frequency_hz * seconds + phase)
            for i in range(faces):
                centre = (x[i] + shift[i, 0], y[i] + shift[i, 1])
                eyes_open = abs(seconds - blink_s[i]) > 0.12
                _draw_face(frames[t], centre, self.radius[i], skin[i], curvature[i], eyes_open)
            cv2.add(frames[t], self.noise[t % len(self.noise)], dst=frames[t], dtype=cv2.CV_8U)
        return frames


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
) -> NDArray[np.float32]:
    """A mono soundtrack at `AUDIO_RATE_HZ`: tones that glide up, stay level or glide down, over coloured noise."""
    samples = round(duration_s * AUDIO_RATE_HZ)
    harmonics = source.uniform(0.2, 0.9) ** np.arange(4)
    noise = np.convolve(rng.normal(0, 1, samples + 15), np.full(16, 0.25), "valid")
    sound = np.asarray(noise * source.uniform(0.002, 0.01))
    events = int(rng.integers(4, 8))
    starts_s = (np.arange(events) + rng.uniform(0.05, 0.4, events)) * duration_s / events
    for start_s in starts_s:
        length = round(rng.uniform(0.3, 0.5) * duration_s / events * AUDIO_RATE_HZ)
        glide_octaves = valence * rng.uniform(0.5, 0.9) + rng.normal(0, 0.05)
        ramp = np.linspace(-0.5, 0.5, length)
        pitch_hz = rng.uniform(250, 500) * 2 ** (glide_octaves * ramp)
        phase = 2 * np.pi * np.cumsum(pitch_hz) / AUDIO_RATE_HZ
        tone = sum(level * np.sin((k + 1) * phase) for k, level in enumerate(harmonics))
        loudness = 10 ** rng.uniform(-1.5, -0.7)
        start = round(start_s * AUDIO_RATE_HZ)
        sound[start : start + length] += loudness * (tone * np.hanning(length))[: samples - start]
    return np.clip(sound, -1, 1).astype(np.float32)


def _encode(frames: NDArray[np.uint8], frame_rate: str, sound: NDArray[np.float32] | None, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="draw-") as folder:
        height, width = frames.shape[1:3]
        streams = [
            ffmpeg.input("pipe:", format="rawvideo", pix_fmt="bgr24", s=f"{width}x{height}", framerate=frame_rate)
        ]
        if sound is not None:
            audio_file = Path(folder, "sound.f32le")
            sound.tofile(audio_file)
            streams.append(ffmpeg.input(str(audio_file), format="f32le", ar=AUDIO_RATE_HZ, ac=1))
        encoded = Path(folder, "clip.mp4")
        codecs = {"vcodec": "libx264", "preset": "veryfast", "crf": 28, "pix_fmt": "yuv420p", "threads": 1}
        if sound is not None:
            codecs |= {"acodec": "aac", "audio_bitrate": "96k", "aac_coder": "fast"}
        # Bit-exact: no encoder version or time in the file, so a set drawn again is the same file by file.
        output = ffmpeg.output(*streams, str(encoded), **codecs, fflags="+bitexact", flags="+bitexact")
        command = output.global_args("-loglevel", "error").compile(cmd=ffmpeg_path())
        subprocess.run(command, input=frames.tobytes(), check=True)
        shutil.move(encoded, target)
