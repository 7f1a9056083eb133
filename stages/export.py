"""Write a model as a folder of its own, to give away or to publish on a hub.

example:
  python -m stages.export exported/ --run runs/demo
reads:
  a finished run, and results/ for the accuracy in the model card
writes:
  weights, settings, model card, run record, and the network as ONNX, which is checked against PyTorch

It needs the extra `export`: pip install 'group-emotion[export]'
"""

import logging
from pathlib import Path

from pipeline.common.command_line import stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__)
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), metavar="FOLDER", help="model (runs/demo)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="(results)")
    arguments = parser.parse_args()

    from pipeline.serving.export import export_run

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it prints a line for each operation that it keeps as is
    difference = export_run(arguments.run, arguments.results, arguments.folder)
    print(f"{arguments.folder}: model.onnx differs from PyTorch by at most {difference:.1e}")


if __name__ == "__main__":
    main()
