"""Write a model as a folder of its own: weights, settings, model card and ONNX, to be given away or put on a hub.

`python -m stages.export exported/ [--run runs/demo] [--results results]`; needs the extra `export`.
"""

import argparse
import logging
from pathlib import Path

from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.export", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of a finished run (runs/demo)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="its evaluation, for the card (results)")
    arguments = parser.parse_args()

    from pipeline.serving.export import export_run

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # a line for each operation that it does not simplify
    difference = export_run(arguments.run, arguments.results, arguments.folder)
    print(f"{arguments.folder}: model.onnx differs from PyTorch by at most {difference:.1e}")


if __name__ == "__main__":
    main()
