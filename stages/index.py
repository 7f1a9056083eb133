"""Make the manifests: for each split a table with one row per clip, and a summary of the data set.

example:
  python -m stages.index --set dataset.name=vgaf --set dataset.root=/where/VGAF/is --set 'dataset.synthesize={}'
reads:
  the settings (dataset); the clips and label files in dataset.root, or dataset.table and the clips that it lists
writes:
  data_manifests/<dataset>/: train.csv, val.csv, summary.json
"""

import sys

from pipeline.common.command_line import settings_of, stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    arguments = stage_parser(__file__, __doc__, settings=True).parse_args()

    from pipeline.clips.identical import identical_warnings
    from pipeline.clips.indexing import index_dataset
    from pipeline.clips.manifest import write_manifests

    config = settings_of(arguments)
    clips, summary = index_dataset(config.dataset)
    warnings = identical_warnings(summary.identical)
    if shared := summary.sources_in_both:
        warnings.append(f"{len(shared)} sources have clips in train and in val, {shared[0]} among them")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    write_manifests(clips, summary, config.manifests)


if __name__ == "__main__":
    main()
