"""OpenAI's own client, unchanged, against a pretended engine."""

from __future__ import annotations

import base64
import io
import threading

import openai
import pytest
from PIL import Image

from tests.serving.pretended import PretendedEngine, Running, picture, running, until


@pytest.fixture
def client(served: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=20)


def opened(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def file(color: tuple[int, ...] = (1, 2, 3), mode: str = "RGB", side: int = 16) -> bytes:
    written = io.BytesIO()
    Image.new(mode, (side, side), color).save(written, format="PNG")
    return written.getvalue()


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pretended"]
    assert client.models.retrieve("pretended").owned_by == "latentc"
    with pytest.raises(openai.NotFoundError, match="is not served"):
        client.models.retrieve("another")


def test_pictures_are_drawn_each_from_its_seed(client: openai.OpenAI, served: Running) -> None:
    answer = client.images.generate(
        prompt="a cat",
        n=3,
        size="16x8",  # type: ignore[arg-type]
        response_format="b64_json",
        extra_body={
            "seed": 7,
            "steps": 2,
            "guidance": 3.5,
            "negative_prompt": "b",
            "scheduler": "DDIMScheduler",
        },
    )
    assert [opened(image.b64_json).getpixel((0, 0)) for image in answer.data or []] == [
        (7, 0, 0),
        (8, 0, 0),
        (9, 0, 0),
    ]
    job = served.engine.jobs[-1]
    assert job["options"] == {
        "size": (16, 8),
        "steps": 2,
        "guidance": 3.5,
        "scheduler": "DDIMScheduler",
        "strength": None,
    }
    assert {p["negative_prompt"] for p in job["pictures"]} == {"b"}


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_a_picture_is_of_the_format_that_was_asked_for(client: openai.OpenAI, file_format: str) -> None:
    answer = client.images.generate(prompt="a", output_format=file_format)  # type: ignore[call-overload]
    assert opened(answer.data[0].b64_json).format == file_format.upper()


def test_an_edit_has_its_picture_and_its_mask(client: openai.OpenAI, served: Running) -> None:
    client.images.edit(image=("i.png", file()), mask=("m.png", file((0, 0, 0, 0), "RGBA")), prompt="a", n=1)
    job = served.engine.jobs[-1]
    assert job["task"] == "inpaint"
    # What is transparent is drawn anew, which is white here.
    assert opened(job["mask"]).getpixel((0, 0)) == 255
    client.images.edit(image=[("i.png", file())], prompt="a", extra_body={"strength": 0.5})
    job = served.engine.jobs[-1]
    assert job["task"] == "image-to-image" and job["options"]["strength"] == 0.5
    with pytest.raises(openai.BadRequestError, match="as large as the image"):
        client.images.edit(image=("i.png", file()), mask=("m.png", file(side=8)), prompt="a")


def test_a_stream_shows_pictures_before_they_are_done(client: openai.OpenAI) -> None:
    events = list(client.images.generate(prompt="a", stream=True, partial_images=2, extra_body={"seed": 9}))
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [getattr(event, "partial_image_index", None) for event in events] == [0, 1, None]
    assert opened(events[-1].b64_json).getpixel((0, 0)) == (9, 0, 0)
    edit = list(client.images.edit(image=("i.png", file()), prompt="a", stream=True))
    assert [event.type for event in edit] == ["image_edit.completed"]


def test_what_fails_within_a_stream_is_an_error_of_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="refuses this"):
        list(client.images.generate(prompt="refuse", stream=True))


def test_errors_are_of_the_api_s_form(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="a", response_format="url")
    assert refused.value.param == "response_format"
    with pytest.raises(openai.InternalServerError, match="SIGSEGV"):
        client.images.generate(prompt="crash")
    assert client.images.generate(prompt="a").data


@pytest.mark.parametrize("streamed", [False, True])
def test_a_connection_that_is_closed_cancels_its_request(streamed: bool) -> None:
    engine = PretendedEngine()
    with running(engine) as server, server.client() as client:

        def ask() -> None:
            with openai.OpenAI(
                base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=1
            ) as impatient:
                try:
                    if streamed:
                        impatient.images.generate(prompt="a", stream=True).close()
                    else:
                        impatient.images.generate(prompt="a")
                except openai.APITimeoutError:
                    pass

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: engine.batches)
        until(lambda: engine.cancelled)
        thread.join()
        engine.gate.set()
        assert client.post("/v1/images/generations", json={"prompt": "b"}).status_code == 200


def test_a_queue_that_is_full_says_when_to_come_again() -> None:
    from latentc.serving.request_limits import Limits

    engine = PretendedEngine()
    with running(engine, limits=Limits(queue=4)) as server, server.client() as client:
        assert client.post("/v1/jobs", json={"prompt": "a"}).status_code == 202
        until(lambda: engine.batches)
        codes = [client.post("/v1/jobs", json={"prompt": "a"}) for _ in range(4)]
        assert [answer.status_code for answer in codes] == [202, 202, 429, 429]
        assert int(codes[-1].headers["Retry-After"]) >= 1
        assert codes[-1].json()["error"]["code"] == "queue_full"


def test_colours_are_told_apart() -> None:
    assert picture(1) != picture(2)
