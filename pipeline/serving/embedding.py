"""Embeddings of clips: the vector of a clip that a model's heads get, and the class probabilities that they give.

The vector holds the pooled tokens of the streams side by side, in the order of the fusion, all equally long.
Cross-attention and self-attention have mixed the streams before; the other fusions have not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from pipeline.common.errors import UserError, missing_package
from pipeline.extraction.reasons import MediaError
from pipeline.loading.selection import locate, open_split
from pipeline.models.runs import FinishedRun
from pipeline.models.scoring import Scorer
from pipeline.serving.predictor import Predictor, refuse_nan
from pipeline.serving.rows import printable


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of N clips by a model of C classes; `ids` are clip ids, or paths of files.

    `values` (N, D) consists of equal parts, one for each of `streams`. `probabilities` is (N, C). `labels` are the
    data set's names of classes, which need not be the model's; they and `source_ids` are None for files. `unusable`
    says by id why a clip or file has no row.
    """

    ids: list[str]
    values: NDArray[np.float32]
    streams: list[str]
    probabilities: NDArray[np.float64]
    classes: Sequence[str]
    labels: list[str] | None
    source_ids: list[str] | None
    unusable: dict[str, str]


def embed_files(files: Sequence[Path], predictor: Predictor) -> Embeddings:
    """Embed files, some of which are read ahead; raises `UserError` if none can be used, or the model gives NaN."""
    rows, ids, unusable = [], [], {}
    for path, read in zip(files, predictor.reader.read_ahead((path, None) for path in files), strict=True):
        try:
            _, batch = read.result()
        except MediaError as error:
            unusable[printable(path)] = str(error)
            continue
        rows.append(predictor.scorer.embed(batch))
        ids.append(printable(path))
    if not rows:
        first, reason = next(iter(unusable.items()))
        raise UserError(f"none of {len(files)} files can be used, {first} because of {reason}; name other files")
    return _embeddings(predictor.scorer, rows, ids=ids, labels=None, source_ids=None, unusable=unusable)


def embed_split(run: FinishedRun, dataset: str, split: str, accelerator: Accelerator) -> Embeddings:
    """Embed a split of a data set from the shards that were made with the run's features.

    Its labels need not be the model's classes. Raises `UserError` for shards or a manifest that are missing or damaged,
    for a split without a usable clip, for a model that gives NaN, and for a launch of several processes, each of which
    would see only its share.
    """
    if accelerator.num_processes > 1:
        raise UserError(f"{accelerator.num_processes} processes run, expected one; start python -m stages.embed itself")
    config = run.config.of_dataset(dataset)
    index, clips = open_split(config, split)
    names, listed = sorted({clip.label for clip in clips}), {clip.clip_id for clip in clips}
    located = locate(index, clips, names)
    if not located:
        raise UserError(f"{index.folder} holds no clip of the {split} split of {dataset}; name another split")
    scorer = Scorer(run.model, accelerator)
    return _embeddings(
        scorer,
        [scorer.embed(batch) for batch in scorer.batches(located, config)],
        ids=[clip.clip_id for clip in located],
        labels=[names[clip.label] for clip in located],
        source_ids=[clip.source_id for clip in located],
        unusable={c.clip_id: f"{c.reason}: {c.detail}" for c in index.quarantined if c.clip_id in listed},
    )


def _embeddings(
    scorer: Scorer,
    rows: Sequence[tuple[NDArray[np.float32], NDArray[np.float64]]],
    ids: list[str],
    labels: list[str] | None,
    source_ids: list[str] | None,
    unusable: dict[str, str],
) -> Embeddings:
    probabilities = np.concatenate([each for _, each in rows])
    for clip_id, row in zip(ids, probabilities, strict=True):
        refuse_nan(row, clip_id)
    return Embeddings(
        ids=ids,
        values=np.concatenate([values for values, _ in rows]),
        streams=scorer.model.fusion.used,
        probabilities=probabilities,
        classes=scorer.model.labels,
        labels=labels,
        source_ids=source_ids,
        unusable=unusable,
    )


def writer_for(path: Path) -> Callable[[Embeddings, Path], None]:
    """The function that writes a file with this suffix; raises `UserError` if there is none, or pyarrow is missing."""
    if path.suffix == ".npz":
        return write_npz
    if path.suffix != ".parquet":
        raise UserError(f"--output is {path}, expected a name that ends in .npz or .parquet; change its suffix")
    try:
        import pyarrow  # noqa: F401 - `write_parquet` needs it
    except ModuleNotFoundError:
        raise missing_package("pyarrow", f"--output is {path} (a .npz needs no package)") from None
    return write_parquet


def write_npz(embeddings: Embeddings, path: Path) -> None:
    """Write the fields but `unusable` as arrays that `numpy.load` reads, `values` as `embeddings`; None is left out."""
    arrays = {
        "ids": embeddings.ids,
        "embeddings": embeddings.values,
        "streams": embeddings.streams,
        "probabilities": embeddings.probabilities,
        "classes": embeddings.classes,
        "labels": embeddings.labels,
        "source_ids": embeddings.source_ids,
    }
    given = {name: np.asarray(values) for name, values in arrays.items() if values is not None}
    np.savez(path, allow_pickle=False, **given)


def write_parquet(embeddings: Embeddings, path: Path) -> None:
    """Write a table with a row per clip: id, of a split also source_id and label, embedding, and a column per class."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, object] = {"id": embeddings.ids}
    if embeddings.labels is not None:
        columns |= {"source_id": embeddings.source_ids, "label": embeddings.labels}
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.values.ravel()), embeddings.values.shape[1]
    )
    columns |= dict(zip(embeddings.classes, embeddings.probabilities.T, strict=True))
    pq.write_table(pa.table(columns), path)
