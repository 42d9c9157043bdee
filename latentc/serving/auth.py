"""Who may ask: keys from a file, and nobody's web page."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from artifacts import named_files
from artifacts.errors import UsageError
from latentc.serving.api_error import ApiError

SHORTEST = 16
"""Characters of a key, at least."""

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""What answers without a key: it says nothing but yes or no."""

_LINE = re.compile(r"([A-Za-z0-9_.-]{1,64}):\s*([\x21-\x7e]+)")


class Keys:
    """API keys, each with the name of its client."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """
        Args:
            keys: name -> key.
        """
        self._digests = {name: _digest(key) for name, key in keys.items()}

    @classmethod
    def read(cls, path: Path) -> Keys:
        """The keys in a file: on each line `name: key`; empty lines and those that begin with # are left out.

        Raises:
            UsageError: it cannot be read, another line, a short key, or a name or key twice.
        """
        try:
            lines = named_files.read_text(path).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the file of keys {path} cannot be read: {getattr(error, 'strerror', '') or error}."
            ) from None
        keys: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            # The line itself is not quoted: it may be a key.
            if match is None or len(match[2]) < SHORTEST:
                raise UsageError(
                    f"line {number} of {path} must be 'NAME: KEY' with a key of at least {SHORTEST} characters.",
                    'Make one: python -c "import secrets; print(secrets.token_urlsafe())"',
                )
            if match[1] in keys or match[2] in keys.values():
                raise UsageError(f"line {number} of {path} has a name or a key that another line has.")
            keys[match[1]] = match[2]
        if not keys:
            raise UsageError(f"the file of keys {path} holds no key.", "A line is written: NAME: KEY")
        return cls(keys)

    def client(self, authorization: str) -> str:
        """The name of the client that sent a header `Authorization`: "Bearer KEY", or "Basic" with KEY as password.

        Raises:
            ApiError: 401, no key or a wrong one.
        """
        sent = _digest(_key(authorization))
        names = [name for name, digest in self._digests.items() if hmac.compare_digest(digest, sent)]
        if not names:
            raise ApiError(
                401, "A valid API key is required: Authorization: Bearer KEY.", code="invalid_api_key"
            )
        return names[0]


def is_loopback(host: str) -> bool:
    """Whether a name or an address, without a port, is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_browser(host: str, origin: str, loopback_only: bool, public: str = "") -> None:
    """Refuses what another site's page sends through the user's browser.

    Args:
        host, origin: the request's headers; empty where there is none.
        loopback_only: whether the server listens for this machine alone, so that no other name leads to it.
        public: the name, and a port, by which a proxy is reached that stands before it; empty where there is none.

    Raises:
        ApiError: 403.
    """
    host = host.lower()
    if loopback_only and host and host != public and not is_loopback(_name(host)):
        raise ApiError(403, f"This server answers as localhost, not as '{host}'.", code="wrong_host")
    if origin and _host(origin) not in {host, public} - {""}:
        raise ApiError(403, "Requests of other sites' pages are refused.", code="wrong_origin")


def _host(origin: str) -> str:
    """The host and port of a header `Origin`; empty where it names none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """A header `Host` without its port."""
    return re.sub(r":\d*$", "", host)


def _key(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""


def _digest(key: str) -> bytes:
    # All of one length, so that a comparison's time says nothing of it.
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
