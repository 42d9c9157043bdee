"""Models of the hub: fetched by huggingface_hub, as its variables and the proxies' say, and why where they are not."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from artifacts import foreseen
from artifacts.errors import LatentcError

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What is fetched of a model: no code, and no pickle."""

WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".onnx", ".xml", ".gguf")
"""Suffixes of files that hold weights in one way or another."""

_LOGIN = "hf auth login"


def is_hub_id(name: str) -> bool:
    """Whether a name is ``owner/name`` as the hub has it; the hub is not asked."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    owner, slash, rest = name.partition("/")
    if not (owner and slash and rest) or "/" in rest:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def fetch(model: str, weights: bool = True) -> Path:
    """The folder of a model of the hub in the user's cache; what is there already is not fetched again.

    Args:
        model: one that `is_hub_id`.
        weights: its weights, too; without them its configurations and vocabularies alone.

    Raises:
        LatentcError: the hub or the way to it refuses, or a part of the model is not there; the message says which.
    """
    from huggingface_hub import errors, snapshot_download

    # httpx in one version of the hub's library, httpx2 in the next.
    client = import_module(errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0])
    kinds = (OSError, ValueError, ImportError, RuntimeError, client.HTTPError, client.InvalidURL)
    patterns = [pattern for pattern in PATTERNS if weights or "safetensors" not in pattern]
    try:
        root = Path(snapshot_download(model, allow_patterns=patterns))
    except kinds as error:
        raise _refusal(model, error) from error
    if weights:
        _check_complete(model, root)
    return root


def _links(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it was raised from."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _refusal(model: str, error: BaseException) -> LatentcError:
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT
    links = list(_links(error))
    names = {cls.__name__ for link in links for cls in type(link).__mro__}
    status = next((s for s in map(_status, links) if s), 0)
    words = " ".join(str(link) for link in links).lower()
    if "GatedRepoError" in names:
        return LatentcError(
            f"{model} is gated: its licence must be accepted once.",
            f"Accept it at {endpoint}/{model}, then: {_LOGIN}",
        )
    if "IncompleteSnapshotError" in names:
        return _incomplete(model, "files are missing in the hub's cache, and the hub cannot be reached")
    if "RepositoryNotFoundError" in names or status == 404:
        return LatentcError(
            f"there is no folder and no model on the hub called '{model}' (or it is private).",
            f"Check the spelling, or log in: {_LOGIN}",
        )
    if status:
        return _of_status(model, endpoint, status)
    if "OfflineModeIsEnabled" in names:
        return _not_reached(
            model,
            "HF_HUB_OFFLINE is set",
            "Unset HF_HUB_OFFLINE, or copy the model's folder here and give its path.",
        )
    if "socks" in words and "ImportError" in names:
        return LatentcError(
            f"'{model}' is fetched through a SOCKS proxy (ALL_PROXY or HTTPS_PROXY says so), which needs a package.",
            "pip install socksio",
        )
    if "ProxyError" in names or "proxy" in words:
        return _not_reached(
            model,
            f"the proxy refuses: {_last_words(links)}",
            "Look at HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.",
        )
    if any(isinstance(link, ssl.SSLError) for link in links) or "certificate" in words or "ssl" in words:
        return _not_reached(
            model,
            f"the connection to {endpoint} is not trusted (TLS): {_last_words(links)}",
            "Behind a proxy that opens connections, name its certificate: SSL_CERT_FILE=FILE",
        )
    if "consistency check failed" in words or names & {
        "RemoteProtocolError",
        "ReadError",
        "XetDownloadError",
    }:
        return _incomplete(model, f"the connection broke off: {_last_words(links)}")
    system = next(
        (s for link in links if isinstance(link, OSError) and (s := _system(link)) is not None), None
    )
    if system is not None:
        return system
    if names & {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError"}:
        return LatentcError(
            f"'{model}' cannot be asked of {endpoint}: {_last_words(links)}.",
            "Look at HF_ENDPOINT and HF_TOKEN.",
        )
    return _not_reached(
        model,
        f"{endpoint}: {_last_words(links)}",
        "Go online, or copy the model's folder here and give its path.",
    )


def _status(error: BaseException) -> int:
    """What a server answered with; 0 where none did."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _system(error: OSError) -> LatentcError | None:
    """The message for a file of the cache that the system refuses; None for the hub's own errors."""
    return foreseen.message(error) if error.errno is not None and error.filename else None


def _of_status(model: str, endpoint: str, status: int) -> LatentcError:
    if status == 401:
        return LatentcError(
            f"{endpoint} refuses the token that '{model}' was asked for with (status 401).",
            f"Log in again: {_LOGIN} (or set HF_TOKEN)",
        )
    if status == 403:
        return LatentcError(
            f"{endpoint} does not let this user read '{model}' (status 403).",
            f"Ask its owner, or log in as another user: {_LOGIN}",
        )
    if status == 407:
        return _not_reached(
            model,
            "the proxy wants a user and a password (status 407)",
            "Give them in the proxy's address: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
        )
    if status == 429:
        return LatentcError(
            f"{endpoint} answers that there were too many requests (status 429).",
            f"Wait some minutes; who is logged in may ask more often: {_LOGIN}",
        )
    return LatentcError(
        f"{endpoint} fails when it is asked for '{model}' (status {status}).",
        "Run the command again later, or copy the model's folder here and give its path.",
    )


def _not_reached(model: str, why: str, hint: str) -> LatentcError:
    return LatentcError(
        f"the hub cannot be reached and '{model}' is neither in its cache nor a folder here ({why}).", hint
    )


def _incomplete(model: str, why: str) -> LatentcError:
    return LatentcError(
        f"the download of '{model}' is not complete: {why}.",
        f"Go online and run the same command again, which continues it, or: hf download {model}",
    )


def _last_words(links: list[BaseException]) -> str:
    """What the first of several errors says, which the others were raised from."""
    words = [" ".join(str(link).split()).rstrip(".") for link in links if str(link).strip()]
    return (words[-1] if words else type(links[0]).__name__)[:200]


def _check_complete(model: str, root: Path) -> None:
    """Looks for the parts of a download that was stopped: older caches do not say what belongs to a model.

    Raises:
        LatentcError: a component has no folder, or a configuration and no weights.
    """
    try:
        index = json.loads((root / "model_index.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # `compiler.source` says what is wrong with it.
    for name, entry in index.items() if isinstance(index, dict) else ():
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
            continue
        folder = root / name
        files = [file for file in folder.glob("*") if file.is_file()] if name.isidentifier() else [root]
        if not files:
            raise _incomplete(model, f"'{name}' is missing in {root}")
        if (folder / "config.json").is_file() and not any(file.suffix in WEIGHTS for file in files):
            raise _incomplete(
                model, f"{folder} holds no weights, or the model has none that latentc reads (safetensors)"
            )
