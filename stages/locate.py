"""Check that the data set is there, before DVC looks for it.

example:
  python -m stages.locate
reads:
  the settings (dataset)
writes:
  data_manifests/<dataset>/location.txt, which names dataset.root
  In the copy of a queued experiment, it also links the data set of the original workspace.
"""

from pipeline.common.command_line import settings_of, stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    arguments = stage_parser(__file__, __doc__, settings=True).parse_args()

    from pipeline.clips.location import locate
    from pipeline.common.files import write_text

    config = settings_of(arguments)
    locate(config.dataset)
    config.manifests.mkdir(parents=True, exist_ok=True)
    write_text(config.manifests / "location.txt", f"{config.dataset.root}\n")


if __name__ == "__main__":
    main()
