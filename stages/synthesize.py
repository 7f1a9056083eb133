"""Draw the demo set: mp4 files and label files in VGAF's layout.

example:
  python -m stages.synthesize
reads:
  the settings (dataset.synthesize, dataset.root)
writes:
  dataset.root, replacing an earlier drawn set there; a folder with other files in it is refused
"""

from pipeline.common.command_line import settings_of, stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    arguments = stage_parser(__file__, __doc__, settings=True).parse_args()

    from pipeline.clips.demo_drawing import draw_set

    config = settings_of(arguments)
    for name, settings in config.dataset.synthesize.items():
        draw_set(name, settings, config.root)


if __name__ == "__main__":
    main()
