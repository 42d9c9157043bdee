"""Which of a pipeline's tasks a request is for, by the pictures that it brings."""

from __future__ import annotations

from collections.abc import Collection


def requested_task(image: bool, mask: bool) -> str:
    """
    Args:
        image, mask: whether there is a picture to start from, and one of what is to be drawn anew.
    """
    return "inpaint" if mask else "image-to-image" if image else "text-to-image"


def choose_task(tasks: Collection[str], image: bool, mask: bool) -> str | None:
    """The task among an artifact's that these inputs ask for; None for its first, where it has no such task."""
    task = requested_task(image, mask)
    return task if task in tasks else None
