"""Request bodies: strict JSON, or a form, that a pydantic model checks; errors name the field."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from artifacts import strict_json
from artifacts.errors import LatentcError
from latentc.serving.api_error import ApiError

# Files and other fields of one form.
_FILES, _FIELDS = 4, 64


class Fields(BaseModel):
    """The fields of a request; one that is not among them is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


Body = TypeVar("Body", bound=Fields)


async def read_json(request: Request, fields: type[Body]) -> Body:
    """The fields of a body in JSON.

    Raises:
        ApiError: 415 for another content type, 400 for what is no JSON object of these fields.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "The request's content type must be application/json.", code="content_type")
    try:
        value = strict_json.loads(await request.body(), "The body")
    except LatentcError as error:
        raise ApiError(400, error.message, code="invalid_json") from None
    return checked(fields, value, strict=True)


async def read_form(
    request: Request, pictures: frozenset[str], fields: type[Body], most: int
) -> tuple[Body, dict[str, bytes]]:
    """The fields of a form, and the files among them.

    Args:
        pictures: names of the fields that are files.
        most: bytes of one part.

    Raises:
        ApiError: 415 for another content type, 400 for other fields, a field twice, or no form.
    """
    content_type = request.headers.get("content-type", "")
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise ApiError(415, "The request's content type must be multipart/form-data.", code="content_type")
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise ApiError(415, "The text of a form must be in UTF-8.", code="content_type")
    # Bytes as they are, which `_text` reads: the parser takes what is no UTF-8 for another encoding.
    headers = Headers({"content-type": f"{content_type}; charset=latin-1"})
    parser = MultiPartParser(
        headers, request.stream(), max_files=_FILES, max_fields=_FIELDS, max_part_size=most
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"The body is no form: {error.message}", code="invalid_form") from None
    except (ValueError, LookupError) as error:
        raise ApiError(400, f"The body is no form: {type(error).__name__}.", code="invalid_form") from None
    try:
        texts, files = await _split(form, pictures)
    finally:
        await form.close()
    return checked(fields, texts, strict=False), files


def checked(fields: type[Body], value: Any, strict: bool) -> Body:
    """The fields in a value.

    Args:
        strict: whether a text counts as no number.

    Raises:
        ApiError: it holds others, or one that is wrong.
    """
    # Before pydantic makes an error of each of a million.
    names = value if isinstance(value, dict) else {}
    if (name := next((name for name in names if name not in fields.model_fields), None)) is not None:
        allowed = ", ".join(fields.model_fields)
        raise ApiError(
            400,
            f"'{name[:100]}' is no field of this request (there are: {allowed}).",
            name[:100],
            "unknown_field",
        )
    try:
        return fields.model_validate(value, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"])) or None
        subject = "The body" if name is None else f"'{name[:100]}'"
        raise ApiError(400, f"{subject}: {first['msg']}.", name, "invalid_value") from None


async def _split(form: FormData, pictures: frozenset[str]) -> tuple[dict[str, str], dict[str, bytes]]:
    texts: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for key, value in form.multi_items():
        # As the `openai` client names the pictures of a list.
        name = _text(key, "A field's name").removesuffix("[]")
        if name in texts or name in files:
            raise ApiError(400, f"'{name[:100]}' is given twice; one is taken.", name, "given_twice")
        if isinstance(value, UploadFile):
            if name not in pictures:
                raise ApiError(400, f"'{name[:100]}' is no file of this request.", name, "unknown_field")
            files[name] = await value.read()
        elif name in pictures:
            raise ApiError(400, f"'{name}' must be a file.", name, "invalid_image")
        else:
            texts[name] = _text(value, f"'{name[:100]}'")
    return texts, files


def _text(text: str, subject: str) -> str:
    """The text whose UTF-8 was read byte for byte.

    Args:
        subject: for the error.

    Raises:
        ApiError: it is no UTF-8.
    """
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise ApiError(400, f"{subject} is no UTF-8.", code="invalid_form") from None


def schema(
    fields: type[Fields], content_type: str = "application/json", files: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A route's body for the OpenAPI page.

    Args:
        files: names of further fields of a form, which are files.
    """
    described = fields.model_json_schema()
    for name in files:
        described["properties"][name] = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {content_type: {"schema": described}}}}
