"""The server as a Ray Serve application, on a Ray of this machine with two replicas."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import latentc
from artifacts.errors import UsageError
from tests.serving.pretended import until

pytest.importorskip("ray.serve", reason="Ray is not here: pip install 'latentc[ray]'")

pytestmark = pytest.mark.slow

PROMPT = "a large red circle at the left on a blue background"
STEPS = 20
SEEDS = range(4)
# A busy machine is slow to start Ray's own processes.
PATIENCE = {
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ray") / "shapes"
    latentc.compile("shapes", made, target="onnxruntime", check="none", batch=1)
    return made


@pytest.fixture(scope="module")
def url(artifact: Path) -> Iterator[str]:
    import ray
    from ray import serve

    from latentc.serving import ray_app

    patch = pytest.MonkeyPatch()
    for name, value in {**PATIENCE, "RAY_USAGE_STATS_ENABLED": "0"}.items():
        patch.setenv(name, value)
    patch.setattr("ray.serve._private.api.HTTP_PROXY_TIMEOUT", 300, raising=False)
    # The workers import what this process does.
    patch.setenv("PYTHONPATH", str(Path(latentc.__file__).parents[1]))
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100_000_000}
    ray.init(address="local", num_cpus=4, log_to_driver=False, _node_ip_address="127.0.0.1", **options)
    try:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(ray_app(str(artifact), replicas=(2, 2)), name="latentc", route_prefix="/")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()
        patch.undo()


def drawn(url: str, seed: int, steps: int = STEPS) -> np.ndarray:
    fields = {"prompt": PROMPT, "seed": seed, "steps": steps}
    answer = httpx.post(f"{url}/v1/images/generations", json=fields, timeout=300, verify=False)
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))) as image:
        return np.asarray(image)


def replicas() -> set[int]:
    """The process ids of the replicas that answer."""
    from ray import serve

    handle = serve.get_deployment_handle("engine-shapes", "latentc")
    return {handle.about.remote().result()["pid"] for _ in range(8)}


def test_pictures_are_those_of_one_process_and_a_replica_that_is_killed_loses_none(
    url: str, artifact: Path
) -> None:
    with latentc.load(artifact, accelerate="off") as pipeline:
        alone = [np.asarray(pipeline.generate(PROMPT, seed=seed, steps=STEPS).images[0]) for seed in SEEDS]
    for seed in SEEDS:
        np.testing.assert_array_equal(drawn(url, seed), alone[seed])

    # All at once and for longer, so that both replicas draw when one of them ends.
    expected = drawn(url, 0, 150)
    before = replicas()
    assert len(before) == 2
    pictures: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: pictures.append(drawn(url, 0, 150))) for _ in range(4)]
    for thread in threads:
        thread.start()
    with httpx.Client(base_url=url, timeout=60, verify=False) as client:
        until(lambda: client.get("/sdapi/v1/progress").json()["state"]["sampling_step"] > 0, 60)
    os.kill(min(before), signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(pictures) == len(threads)
    for picture in pictures:
        np.testing.assert_array_equal(picture, expected)
    until(lambda: len(replicas() - {min(before)}) == 2, 300)


@pytest.mark.parametrize(
    ("artifacts", "replicas"), [((), (1, 1)), (("a/x", "b/x"), (1, 1)), (("a",), (0, 1)), (("a",), (3, 2))]
)
def test_what_cannot_be_deployed_is_refused(artifacts: tuple[str, ...], replicas: tuple[int, int]) -> None:
    from latentc.serving import ray_app

    with pytest.raises(UsageError):
        ray_app(*artifacts, replicas=replicas)
