"""How much one request, one client and one picture may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a request may be at most; each is an option of `latentc serve`.

    Attributes:
        queue: pictures that wait, of all clients.
        pictures: pictures of one request.
        steps: denoising steps.
        pixels: width times height, of a picture that is drawn and of one that is sent.
        body: bytes of a request.
        seconds: how long one batch of pictures may be drawn.
        body_seconds: how long a client may take to send a request.
        prompt: characters of a prompt.
    """

    queue: int = 64
    pictures: int = 10
    steps: int = 150
    pixels: int = 2048 * 2048
    body: int = 32_000_000
    seconds: float = 600.0
    body_seconds: float = 30.0
    prompt: int = 10_000
