"""The Hugging Face hub, asked through huggingface_hub as its variables and the proxies' say; and why it refuses."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from artifacts import foreseen
from artifacts.error_text import causes, one_line
from artifacts.errors import LatentcError

_LOGIN = "hf auth login"


class HubUnreachable(LatentcError):
    """Nobody answers for the hub."""


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


@contextmanager
def refusals(name: str, action: str = "read") -> Iterator[None]:
    """Says why, where the hub or the way to it refuses what is asked of it meanwhile.

    Args:
        name: what is asked for, as the user typed it.
        action: what is done with it, for the message ("read", "write to").

    Raises:
        HubUnreachable: nobody answers; LatentcError: the hub refuses, or a file of the cache cannot be written. The
            message says which.
    """
    from huggingface_hub import errors

    # httpx in one version of the hub's library, httpx2 in the next.
    client = import_module(errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0])
    kinds = (OSError, ValueError, ImportError, RuntimeError, client.HTTPError, client.InvalidURL)
    try:
        yield
    except kinds as error:
        raise _refusal(name, action, error) from error


def _refusal(name: str, action: str, error: BaseException) -> LatentcError:
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT
    links = list(causes(error))
    names = {cls.__name__ for link in links for cls in type(link).__mro__}
    status = next((s for s in map(_status, links) if s), 0)
    words = " ".join(str(link) for link in links).lower()
    if "GatedRepoError" in names:
        return LatentcError(
            f"{name} is gated: its licence must be accepted once.",
            f"Accept it at {endpoint}/{name}, then: {_LOGIN}",
        )
    if "RevisionNotFoundError" in names:
        return LatentcError(
            f"'{name}' has no such revision on the hub.",
            f"See those that there are: {endpoint}/{name.partition('@')[0]}",
        )
    if "IncompleteSnapshotError" in names:
        return incomplete(name, "files are missing in the hub's cache, and the hub cannot be reached")
    if "RepositoryNotFoundError" in names or status == 404:
        return LatentcError(
            f"there is no folder and no model on the hub called '{name}' (or it is private).",
            f"Check the spelling, or log in: {_LOGIN}",
        )
    if status:
        return _of_status(name, action, endpoint, status)
    if "OfflineModeIsEnabled" in names:
        return _not_reached(
            name,
            "HF_HUB_OFFLINE is set",
            "Unset HF_HUB_OFFLINE, or copy its folder here and give its path.",
        )
    if "socks" in words and "ImportError" in names:
        return LatentcError(
            f"'{name}' is fetched through a SOCKS proxy (ALL_PROXY or HTTPS_PROXY says so), which needs a package.",
            "pip install socksio",
        )
    if "ProxyError" in names or "proxy" in words:
        return _not_reached(
            name,
            f"the proxy refuses: {_last_words(links)}",
            "Look at HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.",
        )
    if any(isinstance(link, ssl.SSLError) for link in links) or "certificate" in words or "ssl" in words:
        return _not_reached(
            name,
            f"the connection to {endpoint} is not trusted (TLS): {_last_words(links)}",
            "Behind a proxy that opens connections, name its certificate: SSL_CERT_FILE=FILE",
        )
    if "consistency check failed" in words or names & {
        "RemoteProtocolError",
        "ReadError",
        "XetDownloadError",
    }:
        return incomplete(name, f"the connection broke off: {_last_words(links)}")
    system = next(
        (s for link in links if isinstance(link, OSError) and (s := _system(link)) is not None), None
    )
    if system is not None:
        return system
    if names & {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError"}:
        return LatentcError(
            f"'{name}' cannot be asked of {endpoint}: {_last_words(links)}.",
            "Look at HF_ENDPOINT and HF_TOKEN.",
        )
    return _not_reached(
        name,
        f"{endpoint}: {_last_words(links)}",
        "Go online, or copy its folder here and give its path.",
    )


def _status(error: BaseException) -> int:
    """What a server answered with; 0 where none did."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _system(error: OSError) -> LatentcError | None:
    """The message for a file of the cache that the system refuses; None for the hub's own errors."""
    return foreseen.message(error) if error.errno is not None and error.filename else None


def _of_status(name: str, action: str, endpoint: str, status: int) -> LatentcError:
    if status == 401:
        return LatentcError(
            f"{endpoint} refuses the token that '{name}' was asked for with (status 401).",
            f"Log in again: {_LOGIN} (or set HF_TOKEN)",
        )
    if status == 403:
        return LatentcError(
            f"{endpoint} does not let this user {action} '{name}' (status 403).",
            f"Ask its owner, or log in as another user: {_LOGIN}",
        )
    if status == 407:
        return _not_reached(
            name,
            "the proxy wants a user and a password (status 407)",
            "Give them in the proxy's address: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
        )
    if status == 429:
        return LatentcError(
            f"{endpoint} answers that there were too many requests (status 429).",
            f"Wait some minutes; who is logged in may ask more often: {_LOGIN}",
        )
    return LatentcError(
        f"{endpoint} fails when it is asked for '{name}' (status {status}).",
        "Run the command again later, or copy its folder here and give its path.",
    )


def _not_reached(name: str, why: str, hint: str) -> HubUnreachable:
    return HubUnreachable(
        f"the hub cannot be reached and '{name}' is neither in its cache nor a folder here ({why}).", hint
    )


def incomplete(name: str, why: str) -> LatentcError:
    """The error for a download that was stopped; the same command continues it."""
    return LatentcError(
        f"the download of '{name}' is not complete: {why}.",
        f"Go online and run the same command again, which continues it, or: hf download {name}",
    )


def _last_words(links: list[BaseException]) -> str:
    """What the first of several errors says, which the others were raised from."""
    spoken = [link for link in links if str(link).strip()]
    return one_line(spoken[-1] if spoken else links[0])
