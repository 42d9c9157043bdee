"""The API of jobs, and AUTOMATIC1111's as its clients call it."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from artifacts.errors import LatentcError, UsageError
from artifacts.worker import WorkerError
from latentc.serving.server import make_server, serve
from tests.serving.pretended import PretendedEngine, Running, picture, running, until


def test_a_job_is_watched_until_its_pictures_are_there(served: Running) -> None:
    with served.client() as client:
        made = client.post("/v1/jobs", json={"prompt": "a", "n": 2, "seed": 3, "image": picture(1)})
        assert made.status_code == 202
        state = made.json()
        assert state["seeds"] == [3, 4] and made.headers["Location"] == f"/v1/jobs/{state['id']}"
        with client.stream("GET", f"/v1/jobs/{state['id']}/events") as answer:
            names = [line[7:] for line in answer.iter_lines() if line.startswith("event: ")]
        assert names[-1] == "job.succeeded"
        done = client.get(f"/v1/jobs/{state['id']}").json()
        assert done["status"] == "succeeded" and done["error"] is None
        assert [drawn["seed"] for drawn in done["data"]] == [3, 4]
        assert done["data"][0]["b64_json"] == picture(3)
        # What has ended stays as it is.
        assert client.delete(f"/v1/jobs/{state['id']}").json()["status"] == "succeeded"


def test_jobs_are_cancelled_queued_or_running() -> None:
    engine = PretendedEngine()
    with running(engine) as server, server.client() as client:
        first, second = (
            client.post("/v1/jobs", json={"prompt": "a", "steps": steps}).json()["id"] for steps in (1, 2)
        )
        until(lambda: engine.batches)
        state = client.get(f"/v1/jobs/{second}").json()
        assert (state["status"], state["position"]) == ("queued", 0)
        assert client.get(f"/v1/jobs/{first}").json()["status"] == "running"
        for number in (second, first):
            assert client.delete(f"/v1/jobs/{number}").json()["status"] == "cancelled"
        until(lambda: engine.cancelled)
        engine.gate.set()
        assert client.post("/v1/images/generations", json={"prompt": "b"}).status_code == 200
        assert engine.batches == [["a"], ["b"]]
        with client.stream("GET", f"/v1/jobs/{first}/events") as answer:
            assert "event: job.cancelled" in answer.read().decode()


def test_a_failed_job_says_why(served: Running) -> None:
    with served.client() as client:
        number = client.post("/v1/jobs", json={"prompt": "refuse"}).json()["id"]
        until(lambda: client.get(f"/v1/jobs/{number}").json()["status"] == "failed")
        assert "refuses this" in client.get(f"/v1/jobs/{number}").json()["error"]["message"]


@pytest.mark.parametrize(
    "refusal",
    [UsageError("a strength of 0.01 leaves no step."), WorkerError("a strength of 0.01 leaves no step.", exit_code=2)],
    ids=["usage", "worker"],
)  # fmt: skip
def test_what_the_engine_refuses_is_the_client_s_fault_in_every_api(refusal: LatentcError) -> None:
    engine = PretendedEngine()
    engine.gate.set()

    def draw(job: Any, on_event: Any) -> Any:
        raise refusal

    engine.draw = draw  # type: ignore[method-assign]
    text = {"prompt": "a"}
    with running(engine) as server, server.client() as client:
        said = []
        for path, fields in (
            ("/v1/images/generations", text),
            ("/sdapi/v1/txt2img", text),
            ("/sdapi/v1/img2img", {**text, "init_images": [picture(1)]}),
        ):
            answer = client.post(path, json=fields)
            assert answer.status_code == 400
            said.append(answer.text)
        file = base64.b64decode(picture(1))
        answer = client.post(
            "/v1/images/edits", data={**text, "strength": "0.01"}, files={"image": ("a.png", file)}
        )
        assert answer.status_code == 400
        streamed = client.post("/v1/images/generations", json={**text, "stream": True}).text
        assert "event: error" in streamed and "invalid_request_error" in streamed
        number = client.post("/v1/jobs", json={**text, "image": picture(1), "strength": 0.01}).json()["id"]
        until(lambda: client.get(f"/v1/jobs/{number}").json()["status"] == "failed")
        error = client.get(f"/v1/jobs/{number}").json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "refused")
        assert all("leaves no step" in text for text in (*said, answer.text, streamed, error["message"]))
        assert client.get("/readyz").status_code == 200
        assert engine.starts == 1


def test_the_oldest_of_the_jobs_that_ended_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentc.serving.jobs_api.KEPT_JOBS", 2)
    with running() as server, server.client() as client:
        numbers = []
        for _ in range(3):
            numbers.append(client.post("/v1/jobs", json={"prompt": "a"}).json()["id"])
            until(lambda: client.get(f"/v1/jobs/{numbers[-1]}").json()["status"] == "succeeded")
        statuses = [client.get(f"/v1/jobs/{number}").status_code for number in numbers]
        assert statuses == [404, 200, 200]


def test_the_openapi_page_has_every_route(served: Running) -> None:
    with served.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert {
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/jobs/{number}",
        "/sdapi/v1/txt2img",
    } <= paths.keys()
    body = paths["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"prompt", "seed", "image", "mask"} <= body["properties"].keys()


def test_a_model_that_cannot_be_opened_ends_the_server() -> None:
    engine = PretendedEngine()
    engine.open = lambda: (_ for _ in ()).throw(LatentcError("no such device."))  # type: ignore[method-assign]
    with pytest.raises(LatentcError, match="no such device"):
        serve(make_server([engine], "127.0.0.1", 0))


# --- AUTOMATIC1111 -------------------------------------------------------------------------------


def test_txt2img(served: Running) -> None:
    with served.client() as client:
        fields = {
            "prompt": "a cat", "negative_prompt": "b", "seed": 5, "steps": 3, "cfg_scale": 7, "width": 16, "height": 8,
            "sampler_name": "Euler", "scheduler": "Karras", "batch_size": 2, "n_iter": 2, "save_images": False,
            "override_settings": {"sd_model_checkpoint": "pretended"},
        }  # fmt: skip
        answer = client.post("/sdapi/v1/txt2img", json=fields).json()
    colors = [Image.open(io.BytesIO(base64.b64decode(i))).getpixel((0, 0))[0] for i in answer["images"]]  # type: ignore[index]
    assert colors == [5, 6, 7, 8]
    info = json.loads(answer["info"])
    assert info["seed"] == 5 and info["all_seeds"] == [5, 6, 7, 8] and len(info["infotexts"]) == 4
    options = served.engine.jobs[-1]["options"]
    assert options["scheduler"] == "EulerDiscreteScheduler:use_karras_sigmas=true"
    assert (options["size"], options["guidance"], options["steps"]) == ((16, 8), 7, 3)


@pytest.mark.parametrize(("mask", "task"), [(False, "image-to-image"), (True, "inpaint")])
def test_img2img(served: Running, mask: bool, task: str) -> None:
    with served.client() as client:
        fields = {"init_images": [f"data:image/png;base64,{picture(1)}"], "prompt": "a"}
        if mask:
            fields["mask"] = picture(255)
        assert client.post("/sdapi/v1/img2img", json=fields).status_code == 200
    job = served.engine.jobs[-1]
    assert (job["task"], job["options"]["strength"]) == (task, 0.75)


def test_lists(served: Running) -> None:
    with served.client() as client:
        samplers = client.get("/sdapi/v1/samplers").json()
        assert [sampler["name"] for sampler in samplers] == ["Euler", "DDIM"]
        assert [model["title"] for model in client.get("/sdapi/v1/sd-models").json()] == ["pretended"]
        assert client.get("/sdapi/v1/options").json() == {"sd_model_checkpoint": "pretended"}
        assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "pretended"}).status_code == 200
        assert "karras" in [schedule["name"] for schedule in client.get("/sdapi/v1/schedulers").json()]


def test_progress_and_interrupt() -> None:
    engine = PretendedEngine()
    with running(engine) as server, server.client() as client:
        assert client.get("/sdapi/v1/progress").json()["progress"] == 0
        number = client.post("/v1/jobs", json={"prompt": "a"}).json()["id"]
        until(lambda: client.get("/sdapi/v1/progress").json()["state"]["job"] == number)
        assert client.post("/sdapi/v1/interrupt").status_code == 200
        assert client.get(f"/v1/jobs/{number}").json()["status"] == "cancelled"
        until(lambda: client.get("/sdapi/v1/progress").json()["state"]["job"] == "")


def test_what_is_not_there_is_named(served: Running) -> None:
    with served.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a", "enable_hr": True})
        assert answer.status_code == 400 and "'enable_hr'" in answer.json()["detail"]
        answer = client.get("/sdapi/v1/loras")
        assert answer.status_code == 404 and "/sdapi/v1/loras" in answer.json()["detail"]
