"""The page at `/`: Gradio on the server's own application, which asks nothing of any other machine."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import unquote

# Before gradio is imported: it reports its use otherwise.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI
from gradio.data_classes import FileData
from starlette.datastructures import MutableHeaders
from starlette.routing import Match, Mount

from artifacts.error_text import class_and_text
from latentc.serving.api_error import ApiError
from latentc.serving.dispatch import Dispatcher
from latentc.serving.input_pictures import check_picture
from latentc.serving.page_events import PageEvents, read, recall
from latentc.serving.page_files import PageFiles
from latentc.serving.request_guard import App, Message, Receive, Send
from latentc.serving.request_log import log
from latentc.serving.service import Service

# What the page itself asks for. Gradio has more, which nobody needs here: proxies, recordings, an API of its own.
_PATHS = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)/[\w./-]+"
    r"|/gradio_api/(queue/(join|data)|upload|upload_progress|cancel|reset|startup-events|app_id|theme\.css"
    r"|heartbeat/\w+|component_server)/?"
)
_FILE = "/gradio_api/file="

# The browser is told to ask this server alone, whatever the page's code says.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "media-src 'none'; object-src 'none'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
_FONTS = ("system-ui", "sans-serif")
_FIXED_FONTS = ("ui-monospace", "monospace")
_CSS = """
footer {display: none !important}
#progress img {height: 256px; image-rendering: pixelated}
#progress progress {width: 100%}
"""


def mount(app: FastAPI, service: Service, public_url: str = "") -> None:
    """Puts the page at `/`, behind all routes that the application has.

    Args:
        public_url: where browsers reach it, if a proxy stands before it.
    """
    files = PageFiles()
    os.environ["GRADIO_TEMP_DIR"] = str(files.folder)
    gr.mount_gradio_app(
        app,
        build(service, files),
        "/",
        root_path=public_url or None,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=service.limits.body,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gr.themes.Default(font=_FONTS, font_mono=_FIXED_FONTS),
        css=_CSS,
    )
    gradio_mount = app.router.routes.pop()
    assert isinstance(gradio_mount, Mount)
    app.router.routes.append(_PageMount(gradio_mount.app, files))
    lifespan = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def and_files(inner: FastAPI) -> AsyncIterator[Any]:
        try:
            async with lifespan(inner) as state:
                yield state
        finally:
            files.close()

    app.router.lifespan_context = and_files


def build(service: Service, files: PageFiles) -> gr.Blocks:
    """The page, around one service."""
    events = PageEvents(service, files)
    models = list(service.dispatchers)
    tasks = {task for dispatcher in service.dispatchers.values() for task in dispatcher.engine.tasks}
    edits = bool(tasks & {"image-to-image", "inpaint"})
    # Uploads of an hour ago; finished pictures are kept by `files`.
    with gr.Blocks(title="latentc", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        shown = gr.State([], time_to_live=24 * 3600)
        with gr.Row():
            with gr.Column(scale=2):
                model = gr.Dropdown(models, value=models[0], label="Model", visible=len(models) > 1)
                prompt = gr.Textbox(label="Prompt", lines=3, elem_id="prompt", autofocus=True)
                negative = gr.Textbox(label="Negative prompt", elem_id="negative")
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", elem_id="draw")
                    cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")
                with gr.Row():
                    seed = _field("Seed", "seed", "any")
                    pictures = _field("Pictures", "pictures", value="1")
                with gr.Row():
                    width = _field("Width", "width")
                    height = _field("Height", "height")
                with gr.Row():
                    steps = _field("Steps", "steps")
                    guidance = _field("Guidance", "guidance")
                scheduler = gr.Dropdown([], label="Scheduler", elem_id="scheduler", allow_custom_value=True)
                with gr.Accordion("Image and mask", open=False, visible=edits) as editing:
                    canvas = _canvas(service.limits.pixels, masks="inpaint" in tasks)
                    strength = _field("Strength", "strength")
            with gr.Column(scale=3):
                progress = gr.HTML(elem_id="progress")
                pictures_shown = gr.Gallery(
                    label="Pictures: choose one to have its settings again",
                    elem_id="gallery",
                    columns=4,
                    object_fit="contain",
                    buttons=["download", "fullscreen"],
                    interactive=False,
                )
                dropped = _fetching_nothing(
                    gr.File(
                        label="Drop a PNG here to have its settings again",
                        file_types=[".png"],
                        type="binary",
                        elem_id="dropped",
                        height=140,
                    )
                )
        settings = [prompt, negative, seed, width, height, steps, guidance, scheduler, strength]
        options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        drawing = draw.click(
            events.draw,
            [
                shown, model, prompt, negative, pictures, seed, width, height, steps, guidance, scheduler, strength,
                canvas,
            ],
            [progress, pictures_shown, shown],
            concurrency_limit=None,
            **options,
        )  # fmt: skip
        cancel.click(lambda: "", None, progress, cancels=[drawing], **options)
        pictures_shown.select(recall, shown, settings, **options)
        dropped.upload(read, dropped, [*settings, dropped], **options)

        def of_model(name: str) -> tuple[Any, ...]:
            return _of_model(service.dispatcher(name))

        gr.on([page.load, model.change], of_model, model, [scheduler, width, height, editing], **options)
    # Our own queue holds clients to their shares.
    page.queue(default_concurrency_limit=None)
    return _quiet(page)


def _quiet(page: Any) -> gr.Blocks:
    """The page, whose events print nothing: gradio writes the trace of whatever a request makes fail, in a handler or
    before it, where values that a browser never sends become the handler's."""
    process = page.process_api

    async def quiet(*arguments: Any, **named: Any) -> Any:
        try:
            return await process(*arguments, **named)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            log("warning", "page_failed", reason=class_and_text(error))
            raise gr.Error("The server cannot do this; its log says why.", print_exception=False) from None

    page.process_api = quiet
    blocks: gr.Blocks = page
    return blocks


def _of_model(dispatcher: Dispatcher) -> tuple[Any, ...]:
    """What the page says of a model: its schedulers, its sizes, and whether it takes an image."""
    opened: Mapping[str, Any] = dispatcher.opened or {"schedulers": [], "scheduler": None}
    own = opened["scheduler"]
    schedulers = [
        (f"the model's ({own})" if own else "the model's", ""),
        *((name, name) for name in opened["schedulers"]),
    ]
    sizes = []
    for name in ("width", "height"):
        limits = dispatcher.engine.sizes.get(name)
        if limits is None:
            sizes.append(gr.update(placeholder="the model's", value=""))
        else:
            span = limits.text.replace("..", " to ")
            sizes.append(gr.update(placeholder=span, value=""))
    edits = bool({"image-to-image", "inpaint"} & set(dispatcher.engine.tasks))
    return gr.update(choices=schedulers, value=""), *sizes, gr.update(visible=edits)


def _field(label: str, name: str, placeholder: str = "the model's", value: str = "") -> gr.Textbox:
    """A field for a number, which may be left empty: gradio's own makes a 0 of nothing, and rounds seeds."""
    return gr.Textbox(value, label=label, placeholder=placeholder, elem_id=name)


# Components are changed one by one: where a class derives from one of gradio's, gradio writes a file beside its source.


def _fetching_nothing(component: Any) -> Any:
    """The component, which takes files that the browser sent and fetches no address that a request names."""
    move = component.async_move_resource_to_block_cache

    async def move_local(url_or_file_path: object) -> Any:
        if "://" in str(url_or_file_path):
            raise gr.Error("Addresses are not opened.", print_exception=False)
        return await move(url_or_file_path)

    component.async_move_resource_to_block_cache = move_local
    return component


def _canvas(pixels: int, masks: bool) -> Any:
    """An image, and what is painted over it.

    Args:
        pixels: width times height, at most; held to before a picture is unpacked.
        masks: whether there is a brush.
    """
    canvas = gr.ImageEditor(
        type="pil",
        label="Image: paint over what changes" if masks else "Image",
        elem_id="canvas",
        sources=("upload", "clipboard"),
        buttons=[],
        transforms=(),
        layers=False,
        brush=gr.Brush(colors=["#ffffff"], color_mode="fixed") if masks else False,
        eraser=None if masks else False,
    )

    def decode(file: FileData | bytes | None, flatten_on_white: bool = False) -> Any:
        if file is None:
            return None
        if isinstance(file, FileData):
            with open(file.path, "rb") as opened:
                file = opened.read()
        try:
            return check_picture(file, "image", pixels)
        except ApiError as error:
            raise gr.Error(error.message, print_exception=False) from None

    canvas.convert_and_format_image = decode
    return _fetching_nothing(canvas)


class _PageMount(Mount):
    """Gradio's application, for the paths that the page asks for; all others are left to the server's own errors."""

    def __init__(self, app: App, files: PageFiles) -> None:
        super().__init__("/", app=_with_policy(app), name="page")
        self._files = files

    def matches(self, scope: Any) -> tuple[Match, Any]:
        """See starlette."""
        path = scope["path"]
        if path.startswith(_FILE):
            served = self._files.holds(unquote(path[len(_FILE) :]))
        else:
            served = _PATHS.fullmatch(path) is not None and ".." not in path
        return super().matches(scope) if served else (Match.NONE, {})


def _with_policy(app: App) -> App:
    async def inner(scope: Message, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await app(scope, receive, answer)

    return inner
