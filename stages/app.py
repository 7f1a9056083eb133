"""A page in the browser to try a model on a clip that is uploaded or recorded.

`python -m stages.app [--run runs/demo] [--port 7860]`; needs the extra `app`. Only this machine can open it; `--host
0.0.0.0` offers it to all that reach this machine, without a password. Ctrl-C or SIGTERM ends it.
"""

import argparse
import os
import signal
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from pipeline.common.errors import UserError, exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.app", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of a run, or exported (runs/demo)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="(7860)")
    arguments = parser.parse_args()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # what was uploaded is removed then
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = folder  # before it is imported: all that it keeps is there
        from pipeline.models.runs import open_run
        from pipeline.serving.predictor import Predictor
        from pipeline.training.distributed import start_accelerator

        try:
            from pipeline.serving.page import build_page, serve
        except ModuleNotFoundError as error:
            raise UserError(f"{error.name} is not installed: pip install 'group-emotion[app]'") from None

        config, _, model = open_run(arguments.run)
        accelerator = start_accelerator(config, trains=False)
        with closing(Predictor(model, config, accelerator)) as predictor:
            address = serve(build_page(predictor, model, accelerator), arguments.host, arguments.port)
            print(f"{address} (Ctrl-C ends it)", flush=True)
            signal.pause()


if __name__ == "__main__":
    main()
