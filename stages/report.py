"""Write the result as one self-contained HTML page.

example:
  python -m stages.report
reads:
  the settings, results/ (what evaluate and summarize write)
writes:
  results/report.html, which needs no network; it holds frames of the data set
"""

from pipeline.common.command_line import settings_of, stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    arguments = stage_parser(__file__, __doc__, settings=True).parse_args()
    config = settings_of(arguments)

    from pipeline.common.files import write_text
    from pipeline.results.report import render_report

    write_text(config.results / "report.html", render_report(config.results, config.seeds))


if __name__ == "__main__":
    main()
