from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from artifacts.errors import LatentcError
from bench import record
from bench.record import Measured
from tests.bench.benches import made, variant


def test_the_published_schema_is_that_of_the_code() -> None:
    assert record.SCHEMA_FILE.read_text(encoding="utf-8") == record.schema(), "run: python -m bench.record"


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    bench = made(variant(psnr=math.inf))
    record.write(bench, tmp_path / "b.json")
    text = (tmp_path / "b.json").read_text(encoding="utf-8")
    # Strict JSON, which has no infinity.
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert '"inf"' in text
    assert record.read(tmp_path / "b.json") == bench


def test_a_written_record_has_what_the_schema_requires_and_nothing_else(tmp_path: Path) -> None:
    definitions = json.loads(record.schema())["$defs"]
    found = json.loads(made(variant()).model_dump_json())

    def same(value: object, where: dict[str, object]) -> None:
        name = str(where.get("$ref", "")).rpartition("/")[2]
        if name:
            where = definitions[name]
        if isinstance(value, dict) and "properties" in where:
            properties = where["properties"]
            assert isinstance(properties, dict) and set(value) <= set(properties), name
            assert set(where.get("required", ())) <= set(value)  # type: ignore[call-overload]
            for key, each in value.items():
                same(each, properties[key])
        elif isinstance(value, list) and isinstance(where.get("items"), dict):
            for each in value:
                same(each, where["items"])  # type: ignore[arg-type]

    same(found, json.loads(record.schema()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the document"),
        ("{", "the document"),
        ("[]", "the document"),
        ('{"schema_version": 2}', "is no result of a bench"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_corrupt_record_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "b.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LatentcError, match=message) as raised:
        record.read(file)
    assert "\n" not in raised.value.message and "latentc bench" in raised.value.hint


def test_unknown_keys_are_refused(tmp_path: Path) -> None:
    content = json.loads(made(variant()).model_dump_json()) | {"more": 1}
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(LatentcError, match="more"):
        record.read(tmp_path / "b.json")


def test_what_is_not_a_number_is_written_as_nothing(tmp_path: Path) -> None:
    worst = Measured(value=1.0, low=-math.inf, worst=math.nan)
    quality = variant().quality
    assert quality is not None
    record.write(made(variant(quality=quality.model_copy(update={"psnr": worst}))), tmp_path / "b.json")
    found = record.read(tmp_path / "b.json").variants[-1].quality
    assert found is not None
    assert (found.psnr.value, found.psnr.low, found.psnr.worst) == (1.0, -math.inf, None)


def test_infinity_is_a_value_and_none_is_not() -> None:
    assert json.loads(Measured(value=math.inf).model_dump_json())["value"] == "inf"
    assert Measured.model_validate_json('{"value": "inf"}').value == math.inf
    assert json.loads(Measured().model_dump_json())["value"] is None
