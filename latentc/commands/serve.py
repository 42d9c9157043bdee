"""`latentc serve`: artifacts behind HTTP."""

from __future__ import annotations

import re
from importlib.util import find_spec
from urllib.parse import urlsplit

import click

from latentc.params import (
    COMPUTE,
    BytesType,
    FiniteType,
    Span,
    SpanType,
    compute_option,
    device_option,
    memory_option,
    strict_option,
    trust_engines_option,
)

INSTALL = "pip install 'latentc[serve]'"

# What the extra brings, by the names that are imported.
_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")


def _check_url(context: click.Context, parameter: click.Parameter, url: str) -> str:
    if url and not (re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+/?", url) and _has_host(url)):
        raise click.BadParameter(f"'{url}' is no address of a server: https://pictures.example.org.")
    return url.rstrip("/")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a bracket that is not closed, or a port that is none
        return False


@click.command(
    name="serve",
    short_help="Serve artifacts over HTTP.",
    epilog="""\b
Examples:
  latentc serve out
  latentc serve out --host 0.0.0.0 --api-key-file keys.txt
""",
)
@click.argument("artifacts", metavar="ARTIFACT...", nargs=-1, required=True, type=click.Path())
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8188,
    show_default=True,
    metavar="N",
    help="The port to listen at; 0 for any free one, which the log names.",
)
@device_option
@strict_option
@memory_option(
    "Memory that open graphs of each ARTIFACT may take, e.g. 6G; see: latentc inspect --memory. [default: what is "
    "free]"
)
@compute_option(COMPUTE)
@trust_engines_option
@click.option(
    "--api-key-file",
    type=click.Path(),
    metavar="FILE",
    help="Answer only who sends one of these keys; on each line NAME: KEY.",
)
@click.option("--no-auth", is_flag=True, help="Let everybody ask who reaches --host.")
@click.option(
    "--queue",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    metavar="N",
    help="Pictures that may wait; then requests are answered 429.",
)
@click.option(
    "--max-images",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="N",
    help="Pictures of a request.",
)
@click.option(
    "--max-steps",
    type=click.IntRange(1),
    default=150,
    show_default=True,
    metavar="N",
    help="Denoising steps.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=2048 * 2048,
    show_default=True,
    metavar="N",
    help="Width times height, of a picture that is drawn and of one that is sent.",
)
@click.option(
    "--max-body",
    type=BytesType(),
    default="32M",
    show_default=True,
    metavar="BYTES",
    help="Size of a request.",
)
@click.option(
    "--max-seconds",
    type=FiniteType(0, min_open=True),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long one batch of pictures may take.",
)
@click.option(
    "--ray", is_flag=True, help="Serve through Ray Serve, on the cluster of RAY_ADDRESS or on this machine."
)
@click.option(
    "--replicas",
    type=SpanType(),
    metavar="N|MIN..MAX",
    help="With --ray: processes that draw with each ARTIFACT; more of them while pictures wait. [default: 1]",
)
@click.option(
    "--public-url",
    default="",
    callback=_check_url,
    metavar="URL",
    help="Where browsers reach the server, if a proxy stands before it: https://pictures.example.org.",
)
@click.option("--no-page", is_flag=True, help="Serve the APIs alone, without the page at /.")
@click.option("--log-prompts", is_flag=True, help="Write prompts into the log.")
def command(
    artifacts: tuple[str, ...],
    host: str,
    port: int,
    device: str,
    strict: bool,
    memory: int | None,
    compute: str,
    api_key_file: str | None,
    no_auth: bool,
    queue: int,
    max_images: int,
    max_steps: int,
    max_pixels: int,
    max_body: int,
    max_seconds: float,
    ray: bool,
    replicas: Span | None,
    public_url: str,
    no_page: bool,
    log_prompts: bool,
) -> None:
    """Serve the pipelines in each ARTIFACT by OpenAI's images API, AUTOMATIC1111's, one of jobs, and a page
    for browsers.

    An ARTIFACT is a folder, or owner/name[@REVISION] of the Hugging Face hub, which is fetched once and verified.
    Only this machine is answered, unless --host says otherwise; then a file of keys is needed, or --no-auth.
    A model is called as its folder is. SIGTERM ends the server when what is under way is drawn. Needs
    latentc[serve].
    """
    from pathlib import Path

    from artifacts.errors import LatentcError, UsageError
    from artifacts.hub_artifacts import located, short_name

    if ray and find_spec("ray") is None:
        raise LatentcError(
            "latentc serve --ray needs ray, which is not here.", "Run: pip install 'latentc[ray,serve]'"
        )
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise LatentcError(
            f"latentc serve needs packages that are not here: {', '.join(missing)}.", f"Run: {INSTALL}"
        )

    from latentc.serving.auth import Keys, is_loopback
    from latentc.serving.engine import ArtifactEngine, LoadOptions
    from latentc.serving.request_limits import Limits

    if replicas is not None and not ray:
        raise click.UsageError("--replicas needs --ray.")
    if ray and port == 0:
        raise click.UsageError("--ray needs a port that is named: Ray chooses none.")
    if no_auth and api_key_file is not None:
        raise click.UsageError("--no-auth and --api-key-file are not given together.")
    if not is_loopback(host) and not no_auth and api_key_file is None:
        raise UsageError(
            f"--host {host} lets other machines ask: that needs --api-key-file FILE, or --no-auth for everybody.",
            'A line of the file is NAME: KEY. A key: python -c "import secrets; print(secrets.token_urlsafe())"',
        )
    keys = None if api_key_file is None else Keys.read(Path(api_key_file))
    names = [short_name(artifact) for artifact in artifacts]
    for name in {name for name in names if names.count(name) > 1}:
        raise UsageError(
            f"two artifacts are called '{name}': models are told apart by that.", "Rename a folder."
        )
    options = LoadOptions(device, compute, strict, memory)
    limits = Limits(
        queue=queue,
        pictures=max_images,
        steps=max_steps,
        pixels=max_pixels,
        body=max_body,
        seconds=max_seconds,
    )

    if ray:
        from latentc.serving import ray_server
        from latentc.serving.ray_deployments import ray_app

        # A folder by its whole path; the name of an artifact of the hub as it is.
        places = [str(Path(name).absolute()) if Path(name).exists() else name for name in artifacts]
        application = ray_app(
            *places,
            replicas=replicas or Span(1, 1),
            options=options,
            limits=limits,
            keys=keys,
            loopback_only=is_loopback(host),
            log_prompts=log_prompts,
            page=not no_page,
            public_url=public_url,
        )
        ray_server.serve(application, host, port, len(places) * (1 if replicas is None else replicas.max))
        return

    from latentc.progress_bars import bars
    from latentc.serving.server import make_server, serve

    with bars() as progress:
        folders = [located(artifact, progress).absolute() for artifact in artifacts]
    engines = [ArtifactEngine(folder, options, name) for folder, name in zip(folders, names, strict=True)]
    serve(make_server(engines, host, port, keys, limits, log_prompts, not no_page, public_url))
