"""The server on several machines: the same application as a Ray Serve application."""

from __future__ import annotations

from typing import Any

from artifacts.errors import UsageError
from artifacts.hub_artifacts import short_name
from latentc.serving.auth import Keys
from latentc.serving.engine import LoadOptions
from latentc.serving.ray_engine import EngineReplica, RayEngine
from latentc.serving.request_limits import Limits
from latentc.serving.request_log import log


class Front:
    """The deployment that answers requests: the APIs, the page and the one queue, of which there is one replica."""

    def __init__(
        self,
        handles: dict[str, Any],
        lanes: int,
        limits: Limits,
        keys: Keys | None,
        loopback_only: bool,
        log_prompts: bool,
        options: dict[str, Any],
    ) -> None:
        self._handles = handles
        self._lanes = lanes
        self._limits = limits
        self._keys = keys
        self._loopback_only = loopback_only
        self._log_prompts = log_prompts
        self._options = options
        self._about: dict[str, Any] = {}

    async def learn(self) -> None:
        """Asks a replica of each model what it is."""
        for name, handle in self._handles.items():
            self._about[name] = await handle.about.remote()

    def __serve_build_asgi_app__(self) -> Any:
        """See Ray Serve."""
        from latentc.serving.app import make_app
        from latentc.serving.service import Service

        engines = [
            RayEngine(name, handle, self._about[name])
            for name, handle in self._handles.items()
            for _ in range(self._lanes)
        ]
        return make_app(
            Service(engines, self._limits, self._log_prompts),
            self._keys,
            self._loopback_only,
            on_failure=lambda error: log("error", "front_failed", reason=str(error)),
            **self._options,
        )


def ray_app(
    *artifacts: str,
    replicas: tuple[int, int] = (1, 1),
    options: LoadOptions | None = None,
    limits: Limits | None = None,
    keys: Keys | None = None,
    loopback_only: bool = False,
    log_prompts: bool = False,
    page: bool = False,
    public_url: str = "",
    actor_options: dict[str, Any] | None = None,
) -> Any:
    """An application for `ray.serve.run`: a deployment of each artifact, and one that answers requests.

    Each replica has an artifact open in a process of its own, which verified it on its node. Requests wait in one
    queue, whose limits hold for all replicas. Replicas are added while batches wait for one, and taken away when they
    have nothing to draw. A batch whose replica is lost is drawn again by another.

    Args:
        artifacts: folders that every node has, or `owner/name[@REVISION]` of the Hugging Face hub, which each node
            fetches once. A model is called as its folder is.
        replicas: of each artifact, at least and at most.
        limits, keys, loopback_only, log_prompts, page, public_url: as `latentc serve` has them.
        actor_options: of each replica, for Ray: `{"num_gpus": 1}`; one CPU, unless they say otherwise.

    Raises:
        UsageError: no artifact, two of one name, or no such numbers of replicas.
    """
    least, most = replicas
    if not 1 <= least <= most:
        raise UsageError(f"replicas are from 1 on, the least first; found {replicas}.")
    names = [short_name(artifact) for artifact in artifacts]
    if not artifacts or len(set(names)) < len(names):
        raise UsageError(
            f"artifacts of different names are required; found {', '.join(artifacts) or 'none'}."
        )
    from ray import serve

    scaling = {
        "min_replicas": least,
        "max_replicas": most,
        "initial_replicas": least,
        "target_ongoing_requests": 1,
    }
    replica = serve.deployment(EngineReplica)
    handles = {
        name: replica.options(
            name=f"engine-{name}",
            max_ongoing_requests=1,
            autoscaling_config=scaling,
            ray_actor_options=actor_options or {},
        ).bind(artifact, options or LoadOptions())
        for name, artifact in zip(names, artifacts, strict=True)
    }
    front: Any = serve.deployment(_ingress(serve))
    return front.options(name="front", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0}).bind(
        handles,
        most,
        limits or Limits(),
        keys,
        loopback_only,
        log_prompts,
        {"page": page, "public_url": public_url},
    )


def _ingress(serve: Any) -> Any:
    class Ingress(Front):
        async def __init__(self, *arguments: Any) -> None:  # type: ignore[misc]
            Front.__init__(self, *arguments)
            await self.learn()

    return serve.ingress()(Ingress)
