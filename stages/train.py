"""Train the model on the shards.

example:
  accelerate launch --config_file configs/accelerate/cpu.yaml -m stages.train
reads:
  the settings (recipe, seed, execution), data/shards/<dataset>/, data_manifests/<dataset>/, pretrained weights
writes:
  runs/<dataset>/: model.safetensors, last.safetensors, history.csv, run.json
  checkpoints/<dataset>/ while the training is unfinished. If it was killed or stopped, the same command continues it.
exit codes:
  0    done
  2    something must be corrected; the line that begins with "error:" says what
  75   stopped by SIGTERM; the training is saved
  130  interrupted by Ctrl-C
  `accelerate launch` itself exits with 1 whenever a process that it started does not exit with 0.
"""

from pipeline.common.command_line import settings_of, stage_parser
from pipeline.common.errors import Stopped, exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    from pipeline.common.machine import end_with_launcher

    end_with_launcher()  # before the slow imports: the launcher may be told to stop while they run

    parser = stage_parser(__file__, __doc__, settings=True)
    parser.add_argument(
        "--resume",
        choices=("exact", "changed", "afresh"),
        default="exact",
        help="what to do with an unfinished training. exact: continue if nothing changed (default); "
        "changed: continue with what changed; afresh: remove it and start again",
    )
    arguments = parser.parse_args()

    from pipeline.common.accelerator import start_accelerator
    from pipeline.training.loop import train_model

    config = settings_of(arguments)
    accelerator = start_accelerator(config)
    try:
        train_model(config, accelerator, config.run, config.checkpoints, arguments.resume)
    except Stopped:
        accelerator.end_training()  # so that the trackers write what they still hold
        raise
    accelerator.end_training()


if __name__ == "__main__":
    main()
