"""Turn the clips of the manifests into WebDataset shards of frames and log-mel spectrograms.

example:
  python -m stages.extract --set extract.clips_per_shard=250
reads:
  the settings (recipe.features, extract), data_manifests/<dataset>/, the clips
writes:
  data/shards/<dataset>/<features>/: one folder of shards with an index.json per split; quarantine.csv, with the clips
  that cannot be used and why. Finished shards of an interrupted or earlier extraction are kept.

If the recipe asks for weights or faces, it first runs stages.fetch_weights, so that missing files are known at once.
"""

import subprocess
import sys
from typing import TYPE_CHECKING

from pipeline.common.command_line import settings_of, stage_parser
from pipeline.common.errors import exits_with_one_sentence

if TYPE_CHECKING:
    from pipeline.common.recipe import Recipe


@exits_with_one_sentence
def main() -> None:
    arguments = stage_parser(__file__, __doc__, settings=True).parse_args()

    from pipeline.clips.manifest import SPLITS, read_manifest
    from pipeline.common.machine import available_cores
    from pipeline.common.workspace import is_copy, link_folder, original_workspace
    from pipeline.extraction.clip_settings import ClipSettings
    from pipeline.extraction.face_detector import check_detector
    from pipeline.extraction.outcomes import QUARANTINE_NAME, check_failures, summary_table, write_quarantine
    from pipeline.extraction.splits import extract_splits

    config = settings_of(arguments)
    look_for_weights(config.recipe)
    clips = {split: read_manifest(config.manifests, split) for split in SPLITS}
    settings = ClipSettings(features=config.recipe.features, limits=config.extract)
    # A queued experiment extracts into the workspace that it was copied from, so that the next one finds the shards.
    folder = original_workspace() / config.shards if is_copy() else config.shards
    check_detector(settings)
    root = config.dataset.clips_folder
    extraction = extract_splits(clips, root, folder, settings, available_cores(), wait=is_copy())
    if is_copy():
        link_folder(folder, config.shards)
    write_quarantine(extraction.indexes, config.shards / QUARANTINE_NAME)
    print(summary_table(extraction))
    check_failures(extraction.indexes, clips, config.extract.max_failed_fraction)


def look_for_weights(recipe: "Recipe") -> None:
    """End with the sentence of stages.fetch_weights if weights or a detector that the recipe needs cannot be found.

    A process of its own builds the networks: their memory is not left to the extraction, and this stage does not depend
    on their code.
    """
    if all(stream.weights == "none" for stream in recipe.model.used.values()) and not recipe.features.people.most:
        return
    done = subprocess.run([sys.executable, "-m", "stages.fetch_weights", *sys.argv[1:]], stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
