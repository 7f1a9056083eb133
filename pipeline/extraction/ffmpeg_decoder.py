"""The reference decoder: one ffmpeg process per clip, with the limits of the process that starts it."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av
import ffmpeg
import numpy as np
from numpy.typing import NDArray

from pipeline.common.features import Features
from pipeline.common.machine import ffmpeg_path
from pipeline.extraction.clip_file import WHITELISTS, ClipFile, input_url
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.decoder_output import Decoded, check_sound
from pipeline.extraction.filters import Filter, frame_filters, people_filters, sound_filters
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.streams import lacks_display_times

# -copyts keeps the container's timestamps, from which the timeline was read.
FLAGS = ("-copyts", "-nostdin", "-loglevel", "error", "-filter_complex_threads", "1")
PPM_HEADER = re.compile(rb"P6\s(\d+)\s(\d+)\s255\s")


@dataclass(frozen=True)
class FfmpegOutput:
    """What an ffmpeg process left: its exit code, raw frames and samples, PPM pictures, and error messages."""

    exit_code: int
    frames: bytes
    sound: bytes
    pictures: bytes
    errors: bytes


def decode_with_ffmpeg(clip: ClipFile, pts: list[int], settings: ClipSettings) -> Decoded:
    """Decode the frames shown at `pts`, and the sound; raises `MediaError` for a clip that cannot be decoded."""
    output = _run_ffmpeg(clip, pts, settings)
    return _check_output(output, clip, pts, settings.features)


def _run_ffmpeg(clip: ClipFile, pts: list[int], settings: ClipSettings) -> FfmpegOutput:
    # Files in memory, not pipes: they need no threads to read them, and a limit holds for their size.
    *outputs, errors_file = files = [os.memfd_create(name) for name in ("frames", "sound", "pictures", "errors")]
    try:
        done = subprocess.run(
            _command(clip, pts, settings, *(f"pipe:{file}" for file in outputs)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors_file,
            pass_fds=outputs,
        )
        return FfmpegOutput(done.returncode, *map(_read, files))
    finally:
        for file in files:
            os.close(file)


def _command(
    clip: ClipFile, pts: list[int], settings: ClipSettings, frames_file: str, sound_file: str, pictures_file: str
) -> list[str]:
    features = settings.features
    seek: dict[str, Any] = {}
    if clip.seek_s is not None:
        seek = {"ss": clip.seek_s, "seek_timestamp": 1, "noaccurate_seek": None}
    source = ffmpeg.input(input_url(clip.path), **WHITELISTS, max_pixels=settings.limits.max_pixels, threads=1, **seek)
    outputs = []
    if clip.video:
        video = source[str(clip.video.index)].filter("select", _selection(clip, clip.video, pts))
        each_once = {"fps_mode": "passthrough", "frames:v": len(pts)}
        if features.people.most:
            video, searched = (branch := video.filter_multi_output("split")).stream(0), branch.stream(1)
            pictures = _filtered(searched, people_filters(features, clip.is_hdr))
            # Without a format, ffmpeg writes pictures of more than 8 bits with 16.
            ppm = {"format": "image2pipe", "vcodec": "ppm", "pix_fmt": "rgb24"}
            outputs.append(ffmpeg.output(pictures, pictures_file, **ppm, **each_once))
        frames = _filtered(video, frame_filters(features, clip.is_hdr))
        outputs.append(ffmpeg.output(frames, frames_file, format="rawvideo", pix_fmt="bgr24", **each_once))
    if clip.audio and clip.timeline.has_audio:
        sound = _filtered(source[str(clip.audio.index)], sound_filters(clip.timeline, features))
        outputs.append(ffmpeg.output(sound, sound_file, format="f32le"))
    command: list[str] = ffmpeg.merge_outputs(*outputs).global_args(*FLAGS).compile(cmd=ffmpeg_path())
    return command


def _selection(clip: ClipFile, stream: av.VideoStream, pts: list[int]) -> str:
    """The frames shown at `pts`, as an expression of the filter `select`."""
    if lacks_display_times(stream):
        shown = sorted(packet.pts for packet in clip.video_packets if packet.pts is not None)
        return _is_one_of("n", [shown.index(tick) for tick in pts])
    # Two frames can have the same timestamp; the first of them is taken.
    return f"{_is_one_of('pts', pts)}*not(eq(pts,prev_selected_pts))"


def _is_one_of(name: str, values: Sequence[int]) -> str:
    """An expression of ffmpeg's that is 1 where the variable has one of these values, and else 0.

    Its terms are summed in pairs, because ffmpeg parses no chain of a hundred terms.
    """
    if len(values) == 1:
        return f"eq({name},{values[0]})"
    half = len(values) // 2
    return f"({_is_one_of(name, values[:half])}+{_is_one_of(name, values[half:])})"


def _filtered(stream: Any, filters: list[Filter]) -> Any:
    for name, options in filters:
        stream = stream.filter(name, **options)
    return stream


def _read(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    with os.fdopen(file, "rb", closefd=False) as stream:
        return stream.read()


def _check_output(output: FfmpegOutput, clip: ClipFile, pts: list[int], features: Features) -> Decoded:
    """The decoded frames and sound, which are counted because ffmpeg exits with 0 on much corrupt input."""
    message = f"ffmpeg exit {output.exit_code}: {_first_error(output.errors, clip)}"[:200]
    if b"Cannot allocate memory" in output.errors:
        raise MediaError("out_of_memory", message)
    shape = (len(pts), features.frame_size_px, features.frame_size_px, 3)
    if len(output.frames) != np.prod(shape):
        count = len(output.frames) // int(np.prod(shape[1:]))
        raise MediaError("video_undecodable", f"{count} of {len(pts)} frames decoded; {message}")
    waveform = None
    if clip.timeline.has_audio:
        waveform = check_sound(np.frombuffer(output.sound, np.float32), clip.timeline, features)
    if output.exit_code != 0:
        raise MediaError("video_undecodable", message)
    pictures = _read_ppm(output.pictures)
    if features.people.most and len(pictures) != len(pts):
        raise MediaError("video_undecodable", f"{len(pictures)} of {len(pts)} pictures decoded; {message}")
    return Decoded(np.frombuffer(output.frames, np.uint8).reshape(shape), waveform, pictures)


def _read_ppm(content: bytes) -> list[NDArray[np.uint8]]:
    """The pictures of a stream of binary PPM files (a line P6, one of width and height, one of 255): (H, W, 3), BGR."""
    pictures, start = [], 0
    while header := PPM_HEADER.match(content, start):
        width, height = int(header[1]), int(header[2])
        rgb = np.frombuffer(content[header.end() : header.end() + 3 * width * height], np.uint8)
        pictures.append(np.ascontiguousarray(rgb.reshape(height, width, 3)[..., ::-1]))
        start = header.end() + 3 * width * height
    return pictures


def _first_error(errors: bytes, clip: ClipFile) -> str:
    """The first line of the messages, without folders and memory addresses, which would differ from run to run."""
    text = errors[:2000].decode(errors="replace").replace(input_url(clip.path), clip.path.name).strip()
    return re.sub(r" @ 0x[0-9a-f]+", "", text or "no message").splitlines()[0]
