"""Why a clip can end in quarantine."""

REASONS = {
    "inaccessible": "it could not be opened or read: it is missing, access is denied, or its disk does not answer",
    "unreadable": "it is not a media file in one of the accepted containers",
    "no_video": "it has no video stream, or one without frames or timestamps",
    "bad_timestamps": "its timestamps go backwards, as in files that were glued together, or pause for over an hour",
    "truncated": "it ends before its container says that it does: an interrupted download or recording",
    "too_long": "it lasts longer than features.max_duration_s",
    "too_large": "it has a picture of more than extract.max_pixels",
    "too_few_frames": "it shows fewer different frames at the sampled times than features.frames",
    "video_undecodable": "a sampled frame could not be decoded; a small extract.memory_mb can be the cause",
    "audio_undecodable": "its audio track could not be decoded, or not to its end",
    "timeout": "reading it took longer than extract.timeout_s",
    "out_of_memory": "reading it needed more than extract.memory_mb",
    "crashed": "the process that read it died twice, or failed in an unforeseen way: a bug, or a fault of the machine",
}

# A busy or small machine can cause these, so the next extraction tries such clips again.
RETRIED_REASONS = {"inaccessible", "timeout", "out_of_memory", "crashed"}


class MediaError(Exception):
    """A clip cannot be used: `reason` is a key of `REASONS`, `detail` says what was found in the file."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
