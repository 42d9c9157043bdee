"""Requests that are wrong in every way that we could think of: each is answered 4xx, and the server lives."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.serving.pretended import Running

GENERATIONS, JOBS, TEXT, IMAGE = (
    "/v1/images/generations",
    "/v1/jobs",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    """The head of a PNG of any size, and no pixels."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A whole PNG with one chunk more."""
    head = len(png(8, 8))
    return picture()[:head] + chunk(kind, data) + picture()[head:]


def large_jpeg() -> bytes:
    """A JPEG that says to be of 65500x65500 pixels."""
    data = picture("JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 65500, 65500) + data[at + 4 :]


def picture(file_format: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", size).save(written, format=file_format)
    return written.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


# 256 MiB of zeros, packed.
ZEROS = zlib.compress(bytes(1 << 28), 9)
NOT_PICTURES = {
    "empty": b"",
    "text": b"hello",
    "bomb": png(60000, 60000),
    "jpeg-bomb": large_jpeg(),
    "text-bomb": with_chunk(b"zTXt", b"parameters\0\0" + ZEROS),
    "itxt-bomb": with_chunk(b"iTXt", b"latentc\0\1\0\0\0" + ZEROS),
    "cut-jpeg": picture("JPEG")[:200],
    "cut-webp": picture("WEBP")[:30],
    "wide": png(2**31 - 1, 1),
    "zero": png(0, 0),
    "cut": picture()[:40],
    "gif": picture("GIF"),
    "tiff": picture("TIFF"),
    "bmp": picture("BMP"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "pickle": b"\x80\x04K\x01.",
}

WRONG_FIELDS: list[tuple[str, dict[str, Any]]] = [
    *[(GENERATIONS, {"prompt": "a", **fields}) for fields in (
        {"n": 0}, {"n": -1}, {"n": 11}, {"n": 10**30}, {"n": "2"}, {"n": 1.5}, {"n": True}, {"n": None}, {"n": [1]},
        {"size": "0x0"}, {"size": "8"}, {"size": "8x8x8"}, {"size": "-8x8"}, {"size": "8 x8"}, {"size": 512},
        {"size": "999999x999999"}, {"size": "65x64"}, {"size": "٨x٨"}, {"size": "8x8\n"}, {"size": ""},
        {"steps": 0}, {"steps": 151}, {"steps": 10**40}, {"steps": "4"}, {"steps": 2.5},
        {"guidance": -1}, {"guidance": 1e300}, {"guidance": "7"},
        {"seed": -1}, {"seed": 2**63}, {"seed": 2**63 - 1}, {"seed": 1.5}, {"seed": "x"},
        {"strength": 0.5}, {"strength": 0}, {"strength": 2},
        {"scheduler": "os.system"}, {"scheduler": "../x"}, {"scheduler": "NoScheduler"}, {"scheduler": "UNet2DModel"},
        {"scheduler": "DDIMScheduler:num_train_timesteps=1000000000"}, {"scheduler": "DDIMScheduler:"},
        {"scheduler": "DDIMScheduler:trained_betas=[1]"}, {"scheduler": ""}, {"scheduler": 7},
        {"model": "../../etc/passwd"}, {"model": "/etc/passwd"}, {"model": "http://localhost/x"}, {"model": ""},
        {"model": 3}, {"response_format": "url"}, {"response_format": "x"}, {"output_format": "gif"},
        {"output_compression": 50}, {"output_compression": 101, "output_format": "jpeg"}, {"partial_images": 1},
        {"partial_images": 4, "stream": True}, {"stream": "yes"}, {"background": "transparent"}, {"quality": "hd"},
        {"style": "vivid"}, {"unknown": 1}, {"callback_on_step_end": "x"}, {"image": "/etc/passwd"}, {"__proto__": {}},
        {"prompt": None}, {"prompt": 3}, {"prompt": ["a"]}, {"prompt": "a" * 10_001}, {"negative_prompt": "a" * 10_001},
        {"negative_prompt": 1},
    )],
    (GENERATIONS, {}),
    *[(JOBS, {"prompt": "a", **fields}) for fields in (
        {"image": "/etc/passwd"}, {"image": "file:///etc/passwd"}, {"image": "http://127.0.0.1:1/x.png"}, {"image": 3},
        {"mask": text(picture())}, {"image": text(picture()), "mask": text(picture(size=(4, 4)))}, {"stream": True},
    )],
    *[(TEXT, {"prompt": "a", **fields}) for fields in (
        {"width": 8}, {"width": 0, "height": 0}, {"seed": -2}, {"sampler_name": "Nothing"}, {"scheduler": "Nothing"},
        {"enable_hr": True}, {"styles": ["x"]}, {"script_name": "x"}, {"save_images": True},
        {"alwayson_scripts": {"x": {}}}, {"alwayson_scripts": []}, {"alwayson_scripts": {"controlnet": 1}},
        {"send_images": False}, {"override_settings": {"outdir": "/tmp"}}, {"batch_size": 100, "n_iter": 100},
        {"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, {"do_not_save_grid": False},
    )],
    (IMAGE, {"prompt": "a"}),
    (IMAGE, {"init_images": []}),
    (IMAGE, {"init_images": ["/etc/passwd"]}),
    (IMAGE, {"init_images": [text(picture())], "include_init_images": True}),
    ("/sdapi/v1/options", {"sd_model_checkpoint": "/etc/passwd"}),
    ("/sdapi/v1/options", {"outdir_samples": "/tmp"}),
]  # fmt: skip

WRONG_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no-json": b"{",
    "text": b"prompt=a",
    "list": b"[]",
    "null": b"null",
    "not-utf8": b'{"prompt": "\xff\xfe"}',
    "utf16": '{"prompt": "a"}'.encode("utf-16"),
    "surrogate": b'{"prompt": "\\ud800"}',
    "surrogate-key": b'{"prompt": "a", "\\ud800": 1}',
    "twice": b'{"prompt": "a", "prompt": "b"}',
    "nan": b'{"prompt": "a", "guidance": NaN}',
    "infinite": b'{"prompt": "a", "guidance": 1e999}',
    "digits": b'{"prompt": "a", "seed": ' + b"1" * 5000 + b"}",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep-object": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "bom": b"\xef\xbb\xbf{}",
}


def refused(answer: Any, path: str) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    said = answer.json()
    assert said["errors"] if path.startswith("/sdapi") else said["error"]["message"]


@pytest.fixture(autouse=True)
def alive(served: Running) -> Any:
    yield
    with served.client() as client:
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(("path", "fields"), WRONG_FIELDS, ids=lambda value: ascii(value)[:50])
def test_a_wrong_field_is_refused(served: Running, path: str, fields: dict[str, Any]) -> None:
    before = len(served.engine.jobs)
    with served.client() as client:
        refused(client.post(path, json=fields), path)
    assert len(served.engine.jobs) == before


@pytest.mark.parametrize("body", WRONG_BODIES.values(), ids=WRONG_BODIES)
@pytest.mark.parametrize("path", [GENERATIONS, TEXT])
def test_a_wrong_body_is_refused(served: Running, path: str, body: bytes) -> None:
    with served.client() as client:
        refused(client.post(path, content=body, headers={"Content-Type": "application/json"}), path)


@pytest.mark.parametrize("data", NOT_PICTURES.values(), ids=NOT_PICTURES)
def test_what_is_no_picture_is_refused(served: Running, data: bytes) -> None:
    with served.client() as client:
        form = {"data": {"prompt": "a"}, "files": {"image": ("/etc/passwd", data)}}
        refused(client.post("/v1/images/edits", **form), "/v1")
        form["files"] = {"image": ("a.png", picture()), "mask": ("m.png", data)}
        refused(client.post("/v1/images/edits", **form), "/v1")
        refused(client.post(JOBS, json={"prompt": "a", "image": text(data)}), "/v1")
        refused(client.post(IMAGE, json={"prompt": "a", "init_images": [text(data)]}), "/sdapi")


@pytest.mark.parametrize(
    "request_",
    [
        {"data": {"prompt": "a"}},
        {"data": {"prompt": "a"}, "files": {"mask": ("m.png", picture())}},
        {"data": {"prompt": "a", "image": "/etc/passwd"}, "files": {"mask": ("m.png", picture())}},
        {"data": {"prompt": "a"}, "files": {"image": ("a.png", picture()), "other": ("b", b"")}},
        {
            "data": {"prompt": "a"},
            "files": [("image", ("a.png", picture())), ("image", ("b.png", picture()))],
        },
        {"data": {"prompt": "a", "n": "many"}, "files": {"image": ("a.png", picture())}},
        {"data": {f"f{i}": "x" for i in range(100)}, "files": {"image": ("a.png", picture())}},
        {"files": [(f"image{i}", ("a.png", picture())) for i in range(50)]},
        {"content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"garbage", "headers": {"Content-Type": "multipart/form-data"}},
        {"content": b"garbage", "headers": {"Content-Type": "multipart/form-data; boundary=" + "x" * 300}},
        {"json": {"prompt": "a"}},
    ],
    ids=range(12),
)
def test_a_wrong_form_is_refused(served: Running, request_: dict[str, Any]) -> None:
    with served.client() as client:
        refused(client.post("/v1/images/edits", **request_), "/v1")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", GENERATIONS), ("PUT", JOBS), ("DELETE", "/v1/models"), ("GET", "/nothing"), ("GET", "/../etc/passwd"),
        ("GET", "/v1/models/%2e%2e%2fetc%2fpasswd"), ("GET", "/v1/jobs/1"), ("DELETE", "/v1/jobs/%00"),
        ("GET", "/v1/jobs/x/events"), ("POST", "/sdapi/v1/extra-single-image"), ("GET", "/sdapi/v1/loras"),
        ("GET", "/docs"), ("POST", "/v1/images/variations"), ("BREW", "/healthz"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(served: Running, method: str, path: str) -> None:
    with served.client() as client:
        refused(client.request(method, path), path)


def form(*parts: tuple[bytes, bytes], kind: bytes = b"") -> dict[str, Any]:
    """A form whose bytes are as they are said: of each part, what follows `form-data`, and its content."""
    image = (b'name="image"; filename="a.png"', picture())
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data + b"\r\n"
        for head, data in (image, *parts)
    )
    headers = {"Content-Type": b"multipart/form-data; boundary=x" + kind}
    return {"content": body + b"--x--\r\n", "headers": headers}


@pytest.mark.parametrize(
    "request_",
    [
        form((b'name="prompt"', b"\xff\xfe")),
        form((b'name="prompt"', b"a"), (b'name="\xff"', b"a")),
        form((b'filename="b.png"', b"a")),
        *(
            form((b'name="prompt"', b"a"), kind=b"; charset=" + name)
            for name in (
                b"punycode",
                b"idna",
                b"utf-16",
                b"utf-7",
                b"zip",
                b"latin-1",
                b"\xff",
                b"../x",
                b'""',
            )
        ),
    ],
    ids=range(12),
)
def test_a_form_of_another_encoding_is_refused(served: Running, request_: dict[str, Any]) -> None:
    with served.client() as client:
        refused(client.post("/v1/images/edits", **request_), "/v1")


def test_a_form_in_utf8_is_read(served: Running) -> None:
    for kind in (b"", b"; charset=utf-8", b'; charset="UTF-8"'):
        with served.client() as client:
            request = form((b'name="prompt"', "großer Kreis ☃".encode()), kind=kind)
            assert client.post("/v1/images/edits", **request).status_code == 200
        assert served.engine.batches[-1] == ["großer Kreis ☃"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (GENERATIONS, b'{"prompt": "a"' + b"".join(b',"k%d":1' % i for i in range(1_000_000)) + b"}"),
        (IMAGE, b'{"init_images": [' + b"1," * 1_000_000 + b"1]}"),
    ],
    ids=["fields", "items"],
)
def test_many_faults_are_no_more_work_than_one(served: Running, path: str, body: bytes) -> None:
    used = psutil.Process().memory_info().rss
    with served.client() as client:
        refused(client.post(path, content=body, headers={"Content-Type": "application/json"}), path)
    # Each error would take some 700 bytes.
    assert psutil.Process().memory_info().rss - used < 400_000_000


def turned(orientation: int | bytes, size: tuple[int, int] = (8, 16)) -> bytes:
    """A JPEG that its camera says to turn."""
    written = io.BytesIO()
    if isinstance(orientation, bytes):
        exif = b"Exif\0\0" + orientation
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
    Image.new("RGB", size).save(written, format="JPEG", exif=exif)
    return written.getvalue()


def test_a_mask_is_as_large_as_the_image_that_is_drawn_on(served: Running) -> None:
    with served.client() as client:
        files = {"image": ("a.jpg", turned(6)), "mask": ("m.png", picture(size=(16, 8)))}
        assert client.post("/v1/images/edits", data={"prompt": "a"}, files=files).status_code == 200
        files["mask"] = ("m.png", picture(size=(8, 16)))
        refused(client.post("/v1/images/edits", data={"prompt": "a"}, files=files), "/v1")


@pytest.mark.parametrize(
    "exif",
    [b"XX*\0\0\0\0\x08", b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40, b"MM\0*\xff\xff\xff\xff", b"II*\0"],
    ids=range(4),
)
def test_a_picture_whose_turn_is_nonsense_is_answered(served: Running, exif: bytes) -> None:
    with served.client() as client:
        files = {"image": ("a.jpg", turned(exif))}
        answer = client.post("/v1/images/edits", data={"prompt": "a"}, files=files)
    if answer.status_code != 200:
        refused(answer, "/v1")


def test_another_content_type_is_refused(served: Running) -> None:
    with served.client() as client:
        body = json.dumps({"prompt": "a"}).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = client.post(GENERATIONS, content=body, headers={"Content-Type": kind})
            assert answer.status_code == 415
