"""Say what each clip is for: to fit weights, to choose the epoch (dev), or to be reported.

example:
  python -m stages.split --set folds=5
reads:
  the settings (folds, split_seed, fit_on, recipe.training.dev_fraction), data_manifests/<dataset>/
writes:
  data_manifests/<dataset>/splits.csv: one row per clip or, with folds, one row per clip and fold
  Prints how clips, sources and classes are spread. Whole sources stay together.
"""

from pipeline.common.command_line import settings_of, stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    arguments = stage_parser(__file__, __doc__, settings=True).parse_args()

    from pipeline.clips.manifest import SPLITS, read_manifest
    from pipeline.clips.splits import assign_roles, summarize_roles, write_assignments

    config = settings_of(arguments)
    assignments = assign_roles({split: read_manifest(config.manifests, split) for split in SPLITS}, config)
    write_assignments(assignments, config.manifests)
    for summary in summarize_roles(assignments, config.dataset.classes):
        fold = f"fold {summary.fold}, " if summary.fold else ""
        counts = ", ".join(f"{name} {count}" for name, count in summary.class_counts.items())
        print(f"{fold}{summary.role}: {summary.clips} clips of {summary.sources} sources ({counts})")


if __name__ == "__main__":
    main()
