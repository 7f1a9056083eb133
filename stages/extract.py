"""Turn the clips of the manifests into WebDataset shards of frames and log-mel spectrograms.

`python -m stages.extract`: manifests, clips -> data/shards/<dataset>/
"""

from pipeline.config import load_config
from pipeline.errors import exits_with_one_sentence
from pipeline.extraction import QUARANTINE_NAME, check_failures, extract_split, write_quarantine
from pipeline.machine import available_cores
from pipeline.manifest import SPLITS, read_manifest


@exits_with_one_sentence
def main() -> None:
    config = load_config()
    clips = {split: read_manifest(config.manifests, split) for split in SPLITS}
    indexes = {
        split: extract_split(
            split=split,
            clips=clips[split],
            root=config.root,
            folder=config.shards / split,
            features=config.recipe.features,
            limits=config.extract,
            workers=available_cores(),
        )
        for split in SPLITS
    }
    write_quarantine(indexes, config.shards / QUARANTINE_NAME)
    check_failures(indexes, clips, config.extract.max_failed_fraction)


if __name__ == "__main__":
    main()
