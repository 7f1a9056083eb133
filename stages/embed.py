"""Write the embedding of each clip: the vector from which a trained model computes the class probabilities.

example:
  python -m stages.embed --dataset demo --split val --output embeddings.npz
reads:
  the videos, or a split's shards and manifest; and a finished run or an exported folder
writes:
  the file that --output names, with a row per clip: its id, embedding and class probabilities, and for a split
  also its label and source. NumPy reads .npz; .parquet needs pyarrow. Clips that cannot be used have no row; they are
  printed with the reason.
exit codes:
  0    every clip has a row
  2    nothing was written; the line that begins with "error:" says why
  3    some clips have no row
  130  interrupted by Ctrl-C
"""

import sys
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.command_line import add_run, let_waiting_threads_sleep, stage_parser
from pipeline.common.errors import EXIT_SOME_FAILED, UserError, exits_with_one_sentence
from pipeline.common.files import check_output

if TYPE_CHECKING:
    from pipeline.serving.embedding import Embeddings


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__)
    parser.add_argument("paths", type=Path, nargs="*", metavar="path", help="files, or folders of files")
    parser.add_argument("--split", choices=("train", "val"), help="instead of files: a split of a data set")
    parser.add_argument("--dataset", metavar="NAME", help="data set of the split (that of the run)")
    add_run(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=".npz or .parquet")
    arguments = parser.parse_args()
    if bool(arguments.paths) == bool(arguments.split) or (arguments.dataset and not arguments.split):
        raise UserError("name either files, or a split with --split and, if it is not the run's, --dataset")
    check_output(arguments.output, arguments.paths)

    let_waiting_threads_sleep()
    from pipeline.serving.embedding import writer_for

    write = writer_for(arguments.output)
    embeddings = embed(arguments)
    for clip, reason in embeddings.unusable.items():
        print(f"{clip}: {reason}")
    write(embeddings, arguments.output)
    rows, numbers = embeddings.values.shape
    print(f"{arguments.output}: {rows} rows of {numbers} numbers; without a row: {len(embeddings.unusable)}")
    if embeddings.unusable:
        sys.exit(EXIT_SOME_FAILED)


def embed(arguments: Namespace) -> "Embeddings":
    """The embeddings of the files or of the split that the command line names."""
    from pipeline.common.accelerator import start_accelerator
    from pipeline.models.runs import open_run
    from pipeline.serving.embedding import embed_files, embed_split
    from pipeline.serving.predictor import Predictor, list_files

    files, run = list_files(arguments.paths), open_run(arguments.run)
    accelerator = start_accelerator(run.config, trains=False)
    if arguments.split:
        return embed_split(run, arguments.dataset or run.config.dataset.name, arguments.split, accelerator)
    with closing(Predictor(run, accelerator)) as predictor:
        return embed_files(files, predictor)


if __name__ == "__main__":
    main()
