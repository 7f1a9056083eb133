"""Make the manifests: one table of clips a split, and a summary of the label files.

`python -m stages.index`: dataset.root -> data_manifests/<dataset>/
"""

import sys

from pipeline.clips.manifest import SPLITS, index_split, sources_in_both, write_manifest, write_summary
from pipeline.common.config import load_config
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    config = load_config()
    indexed = {split: index_split(config.root, split) for split in SPLITS}
    shared = sources_in_both(*(clips for clips, _ in indexed.values()))
    if shared:
        print(f"warning: {len(shared)} sources have clips in train and in val, {shared[0]} among them", file=sys.stderr)
    config.manifests.mkdir(parents=True, exist_ok=True)
    for split, (clips, _) in indexed.items():
        write_manifest(clips, config.manifests / f"{split}.csv")
    write_summary({split: summary for split, (_, summary) in indexed.items()}, shared, config.manifests)


if __name__ == "__main__":
    main()
