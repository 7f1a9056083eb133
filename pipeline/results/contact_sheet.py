"""A contact sheet of a shard: a picture with the frames and the log-mel of its first clips."""

import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipeline.common.errors import UserError
from pipeline.loading.jpeg import decode_jpeg
from pipeline.results.boxes import draw_box
from pipeline.shards.format import Sample

ROW_HEIGHT_IN, FRAME_WIDTH_IN, LOG_MEL_WIDTH_IN = 1.3, 1.1, 3.0


def draw_contact_sheet(shard: Path, clips: int) -> Figure:
    """A picture with one row for each of the first `clips` clips of a shard.

    Raises `UserError` for a file that is not a shard, or holds no clip.
    """
    samples = list(islice(_read_shard(shard), clips))
    if not samples:
        raise UserError(f"shard {shard} holds no clip; name another one")
    frames = max(len(sample.jpegs) for sample in samples)
    size = (frames * FRAME_WIDTH_IN + LOG_MEL_WIDTH_IN, len(samples) * ROW_HEIGHT_IN)
    figure = Figure(figsize=size, layout="constrained")
    widths = [FRAME_WIDTH_IN] * frames + [LOG_MEL_WIDTH_IN]
    rows = figure.subplots(len(samples), frames + 1, squeeze=False, width_ratios=widths)
    for row, sample in zip(rows, samples, strict=True):
        _draw_row(list(row), sample)
    return figure


def _draw_row(row: Sequence[Axes], sample: Sample) -> None:
    for axes in row:
        axes.set_axis_off()
    for axes, jpeg, time_s in zip(row, sample.jpegs, sample.frame_times_s, strict=False):
        axes.imshow(decode_jpeg(jpeg, sample.clip_id))
        axes.set_title(f"{time_s:.2f} s", fontsize=7, pad=2)
    for person in sample.people:
        draw_box(row[person.frame], person.box)
    last = row[-1]
    last.set_title(f"{sample.clip_id}, {sample.duration_s:.2f} s", fontsize=7, pad=2)
    if sample.log_mel is None:
        last.text(0.5, 0.5, "no sound", ha="center", va="center", transform=last.transAxes)
    else:
        last.imshow(sample.log_mel, origin="lower", aspect="auto", cmap="magma")


def _read_shard(shard: Path) -> Iterator[Sample]:
    try:
        with shard.open("rb") as stream:
            for members in group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}])):
                yield Sample.from_members(members)
    except FileNotFoundError:
        raise UserError(f"shard {shard} is missing; the extract stage writes shards to data/shards/") from None
    except (ValueError, KeyError, EOFError, tarfile.TarError) as error:
        raise UserError(
            f"{shard} is not one of this project's shards, or is damaged ({error.args[0]}); name another one"
        ) from None
