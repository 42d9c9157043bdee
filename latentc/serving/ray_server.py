"""Listens through Ray Serve: on the cluster that RAY_ADDRESS names, or on one of this machine alone."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from artifacts.errors import LatentcError
from latentc.serving.request_log import base_url, log

NAME = "latentc"
"""Of the application at Ray Serve."""


def serve(application: Any, host: str, port: int, replicas: int) -> None:
    """Serves until a signal ends it; what is under way is finished first.

    Args:
        application: of `latentc.serving.ray_app`.
        replicas: that it may have at most, all artifacts together; a Ray of this machine alone takes so many.

    Raises:
        LatentcError: Ray Serve does not start: the machine is too slow for it, or a replica cannot open its artifact.
        KeyboardInterrupt: Ctrl-C ended it.
    """
    # Ray reports its use otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A proxy that does not answer in Ray's own 5 seconds is ended, and started again: on a busy machine, for ever.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
    import ray
    from ray import serve as ray_serve

    signals: list[int] = []

    def end(number: int, _: object) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    if "RAY_ADDRESS" in os.environ:
        ray.init()
    else:
        ray.init(include_dashboard=False, num_cpus=max(replicas, os.cpu_count() or 1))
    before = signal.signal(signal.SIGTERM, end)
    try:
        ray_serve.start(http_options={"host": host, "port": port})
        ray_serve.run(application, name=NAME, route_prefix="/")
        log("info", "listening", host=host, port=port, url=base_url(host, port))
        threading.Event().wait()
    except KeyboardInterrupt:
        if not signals:
            raise
    except (TimeoutError, RuntimeError, ray.exceptions.RayError) as error:
        raise LatentcError(f"Ray Serve does not start: {error}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
        ray_serve.shutdown()
        ray.shutdown()
