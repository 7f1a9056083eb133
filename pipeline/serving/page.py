"""A web page that predicts a clip which somebody uploads or records."""

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from accelerate import Accelerator
from matplotlib.figure import Figure

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError
from pipeline.models.model import GroupEmotionModel
from pipeline.results.explanation import explain, timeline
from pipeline.results.model_card import STATEMENTS
from pipeline.serving.predictor import NoPrediction, Predictor

MAX_FILE_MB, MAX_DURATION_S, MAX_WAITING = 100, 60.0, 8
KEPT_S = 600  # an upload that nobody asked about
# The browser's own fonts: the page must not ask another server for any.
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])

Answer = tuple[str, dict[str, float] | None, Figure | None]


def only_uploads(component: gr.Video) -> gr.Video:
    """Refuses a request that names an address: Gradio would download what is there, however large."""
    take = component.async_move_resource_to_block_cache

    async def take_upload(path: str | Path | None) -> str | None:
        if str(path).startswith(("http://", "https://")):
            raise gr.Error("expected an uploaded clip, not an address")
        return await take(path)

    component.async_move_resource_to_block_cache = take_upload  # type: ignore[method-assign, assignment]
    return component


def build_page(predictor: Predictor, model: GroupEmotionModel, accelerator: Accelerator) -> gr.Blocks:
    """The page. One clip at a time is worked on, and removed then; a few more may wait."""

    def answer(path: str | None) -> tuple[None, str, Any, Any]:
        if path is None or not Path(path).exists():  # asked twice, it was removed with the first answer
            return None, "Upload or record a clip first.", None, None
        try:
            return None, *answer_to(Path(path), predictor, model, accelerator)
        finally:
            Path(path).unlink(missing_ok=True)

    with gr.Blocks(title="Group emotion", analytics_enabled=False, delete_cache=(60, KEPT_S)) as page:
        gr.Markdown(f"# Group emotion\n{STATEMENTS['What it does']} {STATEMENTS['What the labels are']}")
        with gr.Row():
            with gr.Column():
                # Without a format nothing is converted; the clip is read as it is, by the code that reads all clips.
                clip = gr.Video(
                    label=f"Clip, up to {MAX_DURATION_S:.0f} s and {MAX_FILE_MB} MB",
                    sources=["upload", "webcam"],
                    format=None,
                    webcam_options=gr.WebcamOptions(mirror=False),
                )
                ask = gr.Button("Predict and remove the clip", variant="primary")
                said = gr.Markdown()
            shares = gr.Label(label="Perceived emotion of the group")
        picture = gr.Plot(label="What was seen and heard", format="png")
        gr.Markdown(f"Not for: {STATEMENTS['Not for']}")
        ask.click(
            answer, only_uploads(clip), [clip, said, shares, picture], api_visibility="private", concurrency_limit=1
        )
    return page.queue(max_size=MAX_WAITING, api_open=False)


def serve(page: gr.Blocks, host: str, port: int) -> str:
    """Serve the page in the background, with nothing of Gradio's that reports or shares; gives its address."""
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
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} of {host} cannot be listened on; name another one ({error})") from None
    return str(address)


def answer_to(path: Path, predictor: Predictor, model: GroupEmotionModel, accelerator: Accelerator) -> Answer:
    """A sentence, class probabilities and a picture; of a long clip the mean of its windows, and those over time."""
    found = predictor.predict(path)
    if not isinstance(found, NoPrediction):
        return "", named(found.clip.probabilities), explain(found.clip, model, accelerator)
    if found.reason != "too_long":
        return refused(found.row()), None, None
    length_s = predictor.features.max_duration_s
    rows = [window.row() for window in predictor.predict_windows(path, length_s, MAX_DURATION_S)]
    used = [list(row["probabilities"].values()) for row in rows if row["prediction"]]
    if not used:
        return refused(rows[0]), None, None
    said = f"The mean of {len(used)} windows of {length_s} s, which overlap by half; {len(rows) - len(used)} had none."
    return said, named(np.mean(used, axis=0)), timeline(path.name, rows)


def refused(row: dict[str, Any]) -> str:
    """What is said of a clip without a prediction."""
    return f"This clip cannot be used: {row['detail']} ({row['reason']})."


def named(probabilities: Any) -> dict[str, float]:
    """Class probabilities by class."""
    return dict(zip(CLASSES, map(float, probabilities), strict=True))
