"""`latentc serve`: artifacts behind HTTP, by OpenAI's images API, AUTOMATIC1111's and one of jobs, and by a page.

A request becomes a `drawing.Drawing`, waits in the `queue` as a `queue.Job`, and is drawn by an `engine`, which a
`dispatch.Dispatcher` gives one batch after the other: a process of its own (`drawer`), on this machine or at a
replica of Ray Serve's (`ray_engine`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentc.serving.ray_deployments import ray_app as ray_app

__all__ = ["ray_app"]


def __getattr__(name: str) -> Any:
    if name == "ray_app":
        from latentc.serving.ray_deployments import ray_app

        return ray_app
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
