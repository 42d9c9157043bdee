"""Models that follow pictures: requests bring them, or are told what is missing before anything is drawn."""

from __future__ import annotations

import base64
import threading
from typing import Any

import pytest

from artifacts.errors import LatentcError
from latentc.serving.drawing_request import ImageRequest
from latentc.serving.request_limits import Limits
from latentc.serving.server import make_server, serve
from tests.serving.pretended import PretendedEngine, Running, picture, running, until

JOBS, GENERATIONS, TEXT = "/v1/jobs", "/v1/images/generations", "/sdapi/v1/txt2img"


def following(**needs: Any) -> PretendedEngine:
    engine = PretendedEngine(tasks=("text-to-image",), needs=needs)
    engine.gate.set()
    return engine


def drawn(server: Running, path: str, **fields: Any) -> Any:
    """The engine's job of a request, or its error's words."""
    before = len(server.engine.jobs)
    with server.client() as client:
        answer = client.post(path, json={"prompt": "a", **fields})
        if answer.is_success:
            until(lambda: len(server.engine.jobs) > before)
            return server.engine.jobs[-1]
    assert 400 <= answer.status_code < 500 and len(server.engine.jobs) == before
    said = answer.json()
    return said["errors"] if path == TEXT else said["error"]["message"]


def units(*units: dict[str, Any], script: str = "ControlNet") -> dict[str, Any]:
    return {"alwayson_scripts": {script: {"args": list(units)}}}


def test_jobs_bring_a_picture_for_each_model() -> None:
    with running(following(controls=2, ip_adapters=1)) as server:
        pictures = {"control_image": [picture(1), f"data:image/png;base64,{picture(2)}"]}
        job = drawn(server, JOBS, **pictures, ip_adapter_image=picture(3))
        assert job["control_images"] == [picture(1), picture(2)] and job["ip_adapter_images"] == [picture(3)]
        assert job["task"] == "text-to-image" and job["image"] is None
        for fields, words in (
            ({}, "2 pictures, one for each; found none"),
            ({"control_image": picture(1)}, "2 pictures, one for each; found 1"),
            ({"control_image": []}, "found none"),
            (pictures, "'ip_adapter_image' for its IP-Adapter: 1 picture; found none"),
            ({**pictures, "ip_adapter_image": [picture(1)] * 2}, "found 2"),
            ({"control_image": ["/etc/passwd", "x"]}, "must be a picture in base64"),
            ({"control_image": [1, 2]}, "control_image"),
            ({"control_image": [picture(1), "AAAA"], "ip_adapter_image": picture(3)}, "must be a PNG"),
        ):
            assert words in drawn(server, JOBS, **fields), fields
        assert "have a field 'control_image'" in drawn(server, GENERATIONS)


def test_a_picture_to_follow_is_held_to_the_limits_of_all() -> None:
    with running(following(controls=1), limits=Limits(pixels=64)) as server:
        assert drawn(server, JOBS, control_image=picture(1))
        assert "at most 64 in all" in drawn(server, JOBS, control_image=picture(1, side=9))


def test_a_model_without_models_that_follow_pictures_takes_none(served: Running) -> None:
    for name in ("control_image", "ip_adapter_image"):
        assert f"for '{name}'" in drawn(served, JOBS, **{name: picture(1)})
    assert "no ControlNet" in drawn(served, TEXT, **units({"image": picture(1)}))
    assert drawn(served, TEXT, **units({"enabled": False}), steps=2)["control_images"] == []
    assert drawn(served, TEXT, alwayson_scripts={})


def test_units_of_the_controlnet_extension() -> None:
    with running(following(controls=2, ip_adapters=1)) as server:
        others = {"weight": 1.0, "control_mode": "Balanced", "model": "x [1]", "pixel_perfect": True}
        job = drawn(
            server, TEXT,
            **units(
                {"image": picture(1), "module": "none", "mask": None, **others},
                {"enabled": False, "image": picture(9), "module": "canny"},
                {"input_image": picture(2), "guidance_start": 0.0, "guidance_end": 1.0},
                {"image": {"image": picture(3), "mask": None}},
            ),
        )  # fmt: skip
        assert job["control_images"] == [picture(1), picture(2)] and job["ip_adapter_images"] == [picture(3)]
        for unit, words in (
            ({"image": picture(1), "module": "canny"}, "'module' of a ControlNet's unit is not there"),
            ({"image": picture(1), "weight": 0.5}, "'weight' of a ControlNet's unit"),
            ({"image": picture(1), "control_mode": 2}, "'control_mode'"),
            ({"image": {"image": picture(1), "mask": picture(2)}}, "must be a picture"),
            ({"image": "/etc/passwd"}, "in base64"),
            ({}, "must be a picture"),
            ({"image": picture(1), "unknown": 1}, "'unknown'"),
            ({"image": picture(1)}, "found 1"),
        ):
            assert words in drawn(server, TEXT, **units(unit)), unit
        assert "'roop'" in drawn(server, TEXT, **units(script="roop"))
        assert "args" in drawn(server, TEXT, alwayson_scripts={"controlnet": {}})


def test_pictures_of_other_requests_are_not_followed() -> None:
    engine = PretendedEngine(needs={"controls": 1})
    with running(engine) as server, server.client() as client:
        fields = {"prompt": "a", "seed": 1}
        for number in (0, 1, 2, 1):
            client.post(JOBS, json={**fields, "control_image": picture(number)})
            until(lambda: engine.jobs)
        engine.gate.set()
        until(lambda: len(engine.jobs) == 3)
    assert [(job["control_images"], len(job["pictures"])) for job in engine.jobs] == [
        ([picture(0)], 1), ([picture(1)], 2), ([picture(2)], 1),
    ]  # fmt: skip


def test_a_model_that_edits_under_another_task_is_given_the_picture() -> None:
    with running(following(image=True)) as server:
        assert drawn(server, JOBS, image=picture(1))["task"] == "text-to-image"
        assert "no task 'inpaint'" in drawn(server, JOBS, image=picture(1), mask=picture(2))
    with running(following(controls=1)) as server:
        assert "no task 'image-to-image'" in drawn(server, JOBS, image=picture(1), control_image=picture(1))


def test_a_server_of_models_that_no_request_can_draw_with_ends() -> None:
    server = make_server([following(other="needs 'hint'")], "127.0.0.1", 0)
    late = threading.Timer(20, server.end)
    late.start()
    try:
        with pytest.raises(LatentcError, match="draw with 'pretended': the pipeline needs 'hint'") as told:
            serve(server)
    finally:
        late.cancel()
    assert told.value.exit_code == 1


def test_a_model_that_no_request_can_draw_with_is_told_beside_others(
    capfd: pytest.CaptureFixture[str],
) -> None:
    other = following(other="needs 'hint'")
    other.name = "other"
    own = following()
    with running(own, others=[other]) as server:
        until(lambda: other.starts and server.server._service.ready)
        assert "The pipeline needs 'hint'" in drawn(server, JOBS, model="other")
        assert drawn(server, JOBS)
    said = capfd.readouterr().err
    assert '"model_not_servable", "model": "other"' in said and '"model_ready", "model": "pretended"' in said
    assert '"model_ready", "model": "other"' not in said


def test_pictures_of_a_job_are_counted() -> None:
    data = base64.b64decode(picture(1))
    request = ImageRequest(prompt="a", image=data, control_images=(data, data), ip_adapter_images=(data,))
    assert request.drawing("m", "t", 1, data).input_bytes == 5 * len(data)
