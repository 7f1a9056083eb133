"""Which decoder decodes a clip: two of them give the same frames and sound.

`decode_with_ffmpeg` is the reference: one ffmpeg process decodes the file and scales only the sampled frames.
`decode_in_process` decodes H.264 through PyAV and skips the pictures that no sampled frame needs. It declines whatever
it may decode differently, and then ffmpeg decodes the clip.
"""

from pipeline.extraction.clip_file import ClipFile
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.decoder_output import Decoded
from pipeline.extraction.ffmpeg_decoder import decode_with_ffmpeg
from pipeline.extraction.pyav_decoder import decode_in_process
from pipeline.extraction.reasons import MediaError


def decode(clip: ClipFile, pts: list[int], settings: ClipSettings) -> Decoded:
    """Decode the frames shown at `pts`, and the sound from the clip's start to at most its end.

    Raises `MediaError` for a clip that cannot be decoded.
    """
    if clip.audio and clip.audio.codec_context is None:
        raise MediaError("audio_undecodable", "no decoder for the audio stream")
    decoded = decode_in_process(clip, pts, settings) if settings.limits.decoder == "in_process" else None
    return decoded or decode_with_ffmpeg(clip, pts, settings)
