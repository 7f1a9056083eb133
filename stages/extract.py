"""Turn the clips of the manifests into WebDataset shards of frames and log-mel spectrograms.

`python -m stages.extract`: manifests, clips -> data/shards/<dataset>/
"""

from pipeline.clips.manifest import SPLITS, read_manifest
from pipeline.common.config import load_config
from pipeline.common.errors import exits_with_one_sentence
from pipeline.common.machine import available_cores
from pipeline.extraction.outcomes import QUARANTINE_NAME, check_failures, summary_table, write_quarantine
from pipeline.extraction.tasks import extract_splits


@exits_with_one_sentence
def main() -> None:
    config = load_config()
    clips = {split: read_manifest(config.manifests, split) for split in SPLITS}
    run = extract_splits(
        clips, config.root, config.shards, config.recipe.features, config.extract, workers=available_cores()
    )
    write_quarantine(run.indexes, config.shards / QUARANTINE_NAME)
    print(summary_table(run))
    check_failures(run.indexes, clips, config.extract.max_failed_fraction)


if __name__ == "__main__":
    main()
