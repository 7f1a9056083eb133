"""A picture of what is in a shard: each clip's frames and its log-mel, for a look."""

import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from matplotlib.figure import Figure
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipeline.common.errors import UserError
from pipeline.loading.loader import decode_jpeg
from pipeline.shards.format import Sample

ROW_HEIGHT_IN, FRAME_WIDTH_IN, LOG_MEL_WIDTH_IN = 1.3, 1.1, 3.0


def draw_contact_sheet(shard: Path, clips: int) -> Figure:
    """A row for each of the shard's first `clips` clips; raises `UserError` for a file that is no shard."""
    samples = list(islice(_read_shard(shard), max(1, clips)))
    if not samples:
        raise UserError(f"shard {shard} holds no clip; look at another one")
    frames = max(len(sample.jpegs) for sample in samples)
    size = (frames * FRAME_WIDTH_IN + LOG_MEL_WIDTH_IN, len(samples) * ROW_HEIGHT_IN)
    figure = Figure(figsize=size, layout="constrained")
    widths = [FRAME_WIDTH_IN] * frames + [LOG_MEL_WIDTH_IN]
    axes = figure.subplots(len(samples), frames + 1, squeeze=False, width_ratios=widths)
    for row, sample in zip(axes, samples, strict=True):
        for ax in row:
            ax.set_axis_off()
        for ax, jpeg, time_s in zip(row, sample.jpegs, sample.frame_times_s, strict=False):
            ax.imshow(decode_jpeg(jpeg, sample.clip_id))
            ax.set_title(f"{time_s:.2f} s", fontsize=7, pad=2)
        row[-1].set_title(f"{sample.clip_id}, {sample.duration_s:.2f} s", fontsize=7, pad=2)
        if sample.log_mel is None:
            row[-1].text(0.5, 0.5, "no sound", ha="center", va="center", transform=row[-1].transAxes)
        else:
            row[-1].imshow(sample.log_mel, origin="lower", aspect="auto", cmap="magma")
    return figure


def _read_shard(shard: Path) -> Iterator[Sample]:
    try:
        with shard.open("rb") as stream:
            for members in group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}])):
                yield Sample.from_members(members)
    except FileNotFoundError:
        raise UserError(f"shard {shard} is missing; the extract stage writes them to data/shards/") from None
    except (ValueError, KeyError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{shard} is not one of this project's shards, or is damaged ({error.args[0]})") from None
