"""Serve a page in the browser to try a model on a clip that is uploaded or recorded.

example:
  python -m stages.app --port 7860
reads:
  a finished run or an exported folder
writes:
  nothing that stays: an upload is removed after its prediction, and what remains when the server ends

Only this machine can open the page. `--host 0.0.0.0` offers it to every machine that reaches this one, without a
password. Ctrl-C or SIGTERM ends the server. It needs the extra `app`, which make setup installs.

exit codes:
  0    ended by Ctrl-C or SIGTERM
  2    something must be corrected; the line that begins with "error:" says what
"""

import os
import signal
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from pipeline.common.command_line import add_run, let_waiting_threads_sleep, stage_parser
from pipeline.common.errors import exits_with_one_sentence, missing_extra


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__)
    add_run(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (7860)")
    arguments = parser.parse_args()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # leaves the block below, which removes the uploads
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = folder  # Gradio reads it when it is imported
        serve_page(arguments.run, arguments.host, arguments.port)


def serve_page(run_folder: Path, host: str, port: int) -> None:
    """Serve the page of a run until a signal ends this process."""
    let_waiting_threads_sleep()
    from pipeline.common.accelerator import start_accelerator
    from pipeline.models.runs import open_run
    from pipeline.serving.predictor import Predictor

    try:
        from pipeline.serving.page import build_page, serve
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "app") from None

    run = open_run(run_folder)
    with closing(Predictor(run, start_accelerator(run.config, trains=False))) as predictor:
        print(f"{serve(build_page(predictor), host, port)} (Ctrl-C ends it)", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
