"""Train the model on the shards.

example:
  accelerate launch --quiet --config_file configs/accelerate/cpu.yaml -m stages.train
reads:
  the settings, data/shards/<dataset>/<features>/, data_manifests/<dataset>/, pretrained weights, the run
  that recipe.init names
writes:
  runs/<dataset>/<recipe>/seed-<n>/, and with folds fold-<k>/ in it: model.safetensors (weights of the chosen epoch),
  last.safetensors, run.json, and already while it trains history.csv, streams.csv and train.log
  runs/by_fingerprint/: every finished run. A training that was finished before is not repeated.
  checkpoints/<dataset>/<recipe>/seed-<n>/ while it is unfinished. If it was killed or stopped, the same command
  continues it.
exit codes:
  0    done
  2    something must be corrected; the line that begins with "error:" says what
  75   stopped by SIGTERM or Ctrl-C; the training is saved
  130  interrupted by Ctrl-C before the training began, or by a second Ctrl-C
  `accelerate launch` itself exits with 1 whenever a process that it started does not exit with 0.
"""

from pipeline.common.command_line import add_seed, seeds_of, settings_of, stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    from pipeline.common.machine import end_with_launcher

    end_with_launcher()  # before the slow imports: the launcher may be told to stop while they run

    parser = stage_parser(__file__, __doc__, settings=True)
    add_seed(parser, "train")
    parser.add_argument(
        "--resume",
        choices=("exact", "changed", "afresh"),
        default="exact",
        help="what to do with an unfinished training. exact: continue if nothing changed (default); "
        "changed: continue with what changed; afresh: remove it and start again",
    )
    arguments = parser.parse_args()

    from pipeline.training.experiment import train_seeds

    config = settings_of(arguments)
    train_seeds(config, seeds_of(arguments, config), arguments.resume)


if __name__ == "__main__":
    main()
