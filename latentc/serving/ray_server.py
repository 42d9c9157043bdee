"""Listens through Ray Serve: on the cluster that RAY_ADDRESS names, or on one of this machine alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from artifacts.errors import LatentcError
from latentc.serving.request_log import base_url, log

NAME = "latentc"
"""Of the application at Ray Serve."""

# Ray reads these when it starts; what a user has set stays.
_ENVIRONMENT = {
    # Ray reports its use otherwise.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own 15 leaves its proxy and the replicas what other programs do not want: on a busy machine, nothing.
    "RAY_worker_niceness": "0",
    # A proxy that does not answer in Ray's own 5 seconds is ended, and started again: on a busy machine, for ever.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_agent_register_timeout_ms": "300000",
    # Lines of the log go into files, too.
    "RAY_COLOR_PREFIX": "0",
}
# Seconds for Ray Serve's proxy to answer.
_START = 300.0


def serve(application: Any, host: str, port: int, replicas: int) -> None:
    """Serves until a signal ends it; what is under way is finished first.

    Args:
        application: of `latentc.serving.ray_app`.
        replicas: that it may have at most, all artifacts together; a Ray of this machine alone takes so many.

    Raises:
        LatentcError: Ray or Ray Serve does not start: none is at RAY_ADDRESS, the machine is too slow for it, or a
            replica cannot open its artifact.
        KeyboardInterrupt: Ctrl-C ended it.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import serve as ray_serve

    signals: list[int] = []

    def end(number: int, _: object) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    try:
        _start_ray(replicas)
    except Exception as error:  # Ray raises this class itself
        raise LatentcError(f"Ray does not start: {error}") from None
    # After Ray, which has a handler of its own: that one aborts.
    before = signal.signal(signal.SIGTERM, end)
    try:
        _start_proxy(host, port)
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


def _start_ray(replicas: int) -> None:
    """Connects to the cluster of RAY_ADDRESS, or starts a Ray of this machine."""
    import ray

    if "RAY_ADDRESS" in os.environ:
        ray.init()
    else:
        ray.init(include_dashboard=False, num_cpus=max(replicas, os.cpu_count() or 1))


def _start_proxy(host: str, port: int) -> None:
    """Starts Ray Serve.

    Raises:
        TimeoutError: its proxy does not answer.
    """
    from ray import serve as ray_serve

    end = time.monotonic() + _START
    while True:
        try:
            ray_serve.start(http_options={"host": host, "port": port})
            return
        except TimeoutError:
            # Ray has waited for a minute, and its proxy goes on starting.
            if time.monotonic() > end:
                raise
