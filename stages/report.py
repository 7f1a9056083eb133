"""Write the result as one self-contained HTML page.

`python -m stages.report`: results/, runs/<dataset>/ -> results/report.html
"""

from pipeline.common.config import load_config
from pipeline.common.errors import exits_with_one_sentence
from pipeline.results.report import render_report


@exits_with_one_sentence
def main() -> None:
    config = load_config()
    (config.results / "report.html").write_text(render_report(config.results, config.run))


if __name__ == "__main__":
    main()
