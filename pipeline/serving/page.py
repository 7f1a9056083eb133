"""A web page that predicts a clip which somebody uploads or records."""

import ipaddress
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
from gradio import route_utils
from gradio.utils import get_upload_folder
from matplotlib.figure import Figure
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipeline.common.errors import UserError
from pipeline.results.model_card import statements_of
from pipeline.serving.file_picture import draw_file
from pipeline.serving.page_guard import PageGuard
from pipeline.serving.predictor import Predictor
from pipeline.serving.rows import NoPrediction, Prediction, printable

MAX_FILE_MB, MAX_DURATION_S, MAX_WAITING, MAX_UPLOADS = 100, 60.0, 8, 16
KEPT_S = 600  # how long an upload is kept for which nobody asks for a prediction
HIGHEST_PORT = 65_535
LOOPBACK_NAMES = ["127.0.0.1", "localhost"]
# The browser's own fonts: the page must not ask another server for any.
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])

# A message, class probabilities by class, and a picture.
Shown = tuple[str, dict[str, float] | None, Figure | None]


def build_page(predictor: Predictor) -> gr.Blocks:
    """The page. It works on one clip at a time and removes it afterwards; a few more may wait."""

    def answer_and_remove(path: str | None) -> tuple[None, str, Any, Any]:
        if path is None or not Path(path).exists():  # the first of two requests for a clip removes it
            return None, "Upload or record a clip first.", None, None
        try:
            return None, *answer_upload(Path(path), predictor)
        finally:
            Path(path).unlink(missing_ok=True)

    model = predictor.scorer.model
    statements = statements_of(model.labels, model.takes.values())
    with gr.Blocks(title="Group emotion", analytics_enabled=False, delete_cache=(60, KEPT_S)) as page:
        gr.Markdown(f"# Group emotion\n{statements['What it does']} {statements['What the labels are']}")
        with gr.Row():
            with gr.Column():
                upload = clip_input()
                button = gr.Button("Predict and remove the clip", variant="primary")
                message = gr.Markdown()
            shares = gr.Label(label="Perceived emotion of the group")
        picture = gr.Plot(label="What the model saw and heard", format="png")
        gr.Markdown(f"Not for: {statements['Not for']}")
        outputs = [upload, message, shares, picture]
        button.click(answer_and_remove, upload, outputs, api_visibility="private", concurrency_limit=1)
    return page.queue(max_size=MAX_WAITING, api_open=False)


def clip_input() -> gr.Video:
    """The field for a clip. Without a format, Gradio converts nothing: the code that reads all clips reads this one."""
    upload = gr.Video(
        label=f"Clip, up to {MAX_DURATION_S:.0f} s and {MAX_FILE_MB} MB",
        sources=["upload", "webcam"],
        format=None,
        webcam_options=gr.WebcamOptions(mirror=False),
    )
    return only_uploads(upload)


def only_uploads(component: gr.Video) -> gr.Video:
    """Make a component refuse a request that names an address: Gradio would download what is there, however large."""
    take = component.async_move_resource_to_block_cache

    async def take_upload(path: str | Path | None) -> str | None:
        if str(path).startswith(("http://", "https://")):
            raise gr.Error("expected an uploaded clip, not an address")
        return await take(path)

    component.async_move_resource_to_block_cache = take_upload  # type: ignore[method-assign, assignment]
    return component


def serve(page: gr.Blocks, host: str, port: int) -> str:
    """Serve the page in the background and return its address. Gradio's reporting and sharing are off.

    On a loopback address, the server accepts no other host name (`accepted_names`). Raises `UserError` for
    a port that is taken or does not exist, and if the server does not answer.
    """
    if not 1 <= port <= HIGHEST_PORT:
        raise UserError(f"port {port} does not exist; name one from 1 to {HIGHEST_PORT} with --port")
    ask_without_proxy(host)
    part_uploads()
    folder = Path(get_upload_folder())
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=accepted_names(host)),
        Middleware(PageGuard, folder=folder, max_clips=MAX_UPLOADS, max_bytes=MAX_FILE_MB * 2**20),
    ]
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            max_file_size=f"{MAX_FILE_MB}mb",
            theme=THEME,
            share=False,
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            footer_links=[],
            quiet=True,
            app_kwargs={"middleware": guards},
            prevent_thread_lock=True,
        )
    except OSError:  # Gradio's text names settings of its own
        raise UserError(
            f"port {port} of {host} cannot be listened on; name another --port, or another --host of this machine"
        ) from None
    except (httpx.HTTPError, ValueError) as error:  # Gradio asks the server whether it answers
        raise UserError(
            f"the page on port {port} of {host} does not answer this machine ({error}); name another address with "
            "--host, or see which firewall or proxy is between"
        ) from None
    return str(address)


def ask_without_proxy(host: str) -> None:
    """Have Gradio ask its own server directly, also where the environment names a proxy, which may not reach it."""
    names = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), host.strip("[]"), *LOOPBACK_NAMES]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, names))


class _PartedUpload(route_utils.GradioUploadFile):
    """An upload whose digest, by which Gradio names its folder, is its own: that of an equal clip is another one."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.sha.update(secrets.token_bytes(16))


def part_uploads() -> None:
    """Keep equal clips of two visitors in two files: the answer to the first visitor removes the file."""
    route_utils.GradioUploadFile = _PartedUpload  # type: ignore[misc]


def accepted_names(host: str) -> list[str]:
    """The names by which a server on the address `host` may be asked for: any, unless this machine alone reaches it.

    This prevents DNS rebinding: another site's page could otherwise reach it through a domain name that resolves to
    this machine. An address that cannot be resolved cannot be listened on either.
    """
    try:
        addresses = {str(each[4][0]) for each in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return LOOPBACK_NAMES
    is_loopback = all(ipaddress.ip_address(address).is_loopback for address in addresses)
    return [*LOOPBACK_NAMES, host] if is_loopback else ["*"]


def answer_upload(path: Path, predictor: Predictor) -> Shown:
    """What the page shows of a file. A file that is longer than a clip is predicted in windows."""
    answer = predictor.predict(path)
    rows, length_s = [answer.row], predictor.features.max_duration_s
    is_long = isinstance(answer.row, NoPrediction) and answer.row.reason == "too_long"
    if is_long:
        rows = [window.row for window in predictor.predict_windows(path, length_s, MAX_DURATION_S)]
    predictions = [row for row in rows if isinstance(row, Prediction)]
    failed = [row for row in rows if isinstance(row, NoPrediction)]
    if not predictions:
        return refusal(failed[0]), None, None
    message = f"The mean of {len(predictions)} windows of {length_s} s, which overlap by half." if is_long else ""
    if failed:
        message += f" {len(failed)} more windows cannot be used."
    mean = np.mean([list(row.probabilities.values()) for row in predictions], axis=0)
    picture = draw_file(printable(path.name), rows, answer.clip, predictor.scorer)
    return message, dict(zip(predictor.scorer.model.labels, mean.tolist(), strict=True)), picture


def refusal(row: NoPrediction) -> str:
    """The message about a clip without a prediction."""
    return f"This clip cannot be used: {row.detail} ({row.reason})."
