"""The filters that turn decoded pictures and sound into frames and the waveform: the same for both decoders."""

from pipeline.common.features import Features
from pipeline.extraction.timeline import Timeline

# The name of a libavfilter filter, and its options.
Filter = tuple[str, dict[str, str]]

# From HLG or PQ to BT.709. White is at 203 cd/m2, as ITU-R BT.2408 says; brighter values are compressed to below it. In
# RGB, because zscale refuses pictures of an odd size whose chroma is stored at half the resolution.
TONE_MAPPING: list[Filter] = [
    ("format", {"pix_fmts": "gbrp16le"}),
    ("zscale", {"transfer": "linear", "npl": "203"}),
    ("format", {"pix_fmts": "gbrpf32le"}),
    ("zscale", {"primaries": "bt709"}),
    ("tonemap", {"tonemap": "mobius", "desat": "0"}),
    ("zscale", {"transfer": "bt709", "range": "full"}),
]


def frame_filters(features: Features, is_hdr: bool = False) -> list[Filter]:
    """The filters that make a frame from a decoded picture: they scale it, and crop and tone-map it where needed.

    HDR is tone-mapped last, because a frame is much smaller than the picture.
    """
    return [*_framing(features), *(TONE_MAPPING if is_hdr else [])]


def people_filters(features: Features, is_hdr: bool = False) -> list[Filter]:
    """The filters that make the picture in which faces are looked for: what a frame shows, in the decoded size.

    Its pixels are square. A picture with a side longer than `people.longest_side_px` is scaled down to that first.
    """
    scale = f"min(1,{features.people.longest_side_px}/max(iw*sar,ih))"
    filters: list[Filter] = [("scale", {"w": f"ceil(iw*sar*{scale})", "h": f"ceil(ih*{scale})", "flags": "area"})]
    if features.framing == "center_crop":
        filters.append(("crop", {"w": "min(iw,ih)", "h": "min(iw,ih)"}))
    return [*filters, *(TONE_MAPPING if is_hdr else [])]


def _framing(features: Features) -> list[Filter]:
    size = features.frame_size_px
    if features.framing == "full_frame":
        return [("scale", {"w": f"{size}", "h": f"{size}", "flags": "area"})]
    # The shorter side, as displayed, becomes `size`; `sar` is the aspect ratio of the pixels themselves.
    width, height = f"ceil({size}*max(1,iw*sar/ih))", f"ceil({size}*max(1,ih/(iw*sar)))"
    return [("scale", {"w": width, "h": height, "flags": "area"}), ("crop", {"w": f"{size}", "h": f"{size}"})]


def sound_filters(timeline: Timeline, features: Features) -> list[Filter]:
    """The filters that make the waveform from decoded sound: resampled once, from the clip's start to at most its end.

    Gaps, and the time before a track that starts later, become silence.
    """
    rate = features.sample_rate_hz
    # Cut what sounds before the first frame, and the padding in a codec's last block, beyond the track's end.
    track = {"start": f"{timeline.start_s:.6f}", "end": f"{timeline.start_s + (timeline.audio_end_s or 0):.6f}"}
    # The resampler counts `first_pts` at its input's rate, which is unknown at this point; 0 is 0 at any rate.
    from_zero = {"expr": f"PTS-{timeline.start_s:.6f}/TB"}
    resample = {"osr": f"{rate}", "ochl": "mono", "osf": "flt", "async": "1", "first_pts": "0"}
    length = {"end_sample": f"{round(timeline.duration_s * rate)}"}
    return [("atrim", track), ("asetpts", from_zero), ("aresample", resample), ("atrim", length)]
