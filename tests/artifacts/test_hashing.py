from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts import hashing
from artifacts.hashing import content_key, file_record, is_sha256

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("size", [0, 1, hashing.CHUNK, hashing.CHUNK + 1])
def test_file_record(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(data[:size])
    record = file_record(tmp_path, tmp_path / "a" / "f")
    assert (record.path, record.size) == ("a/f", size)
    assert record.sha256 == hashlib.sha256(data[:size]).hexdigest()


def test_big_files_report_their_progress(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hashing, "REPORTED", 2 * hashing.CHUNK)
    events = []
    for name, size in (("small", 2 * hashing.CHUNK - 1), ("big", 2 * hashing.CHUNK + 5)):
        (tmp_path / name).write_bytes(b"x" * size)
        file_record(tmp_path, tmp_path / name, events.append)
    assert [event.completed for event in events] == [hashing.CHUNK, 2 * hashing.CHUNK, 2 * hashing.CHUNK + 5]
    assert {(event.task, event.total, event.unit) for event in events} == {
        ("hashing big", 2 * hashing.CHUNK + 5, "bytes")
    }


def test_a_file_outside_the_root_has_its_whole_path(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "f").write_text("x")
    assert file_record(tmp_path / "root", tmp_path / "f").path == (tmp_path / "f").as_posix()


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=9), json_values, max_size=4))
def test_content_key_does_not_depend_on_order(value: dict) -> None:
    assert content_key(value) == content_key(dict(reversed(value.items())))
    assert len(content_key(value)) == 64


def test_content_key_is_the_same_on_every_machine() -> None:
    """The keys of finished parts: a change here makes every kept part useless."""
    value = {"b": [1, 2.5, None, True], "a": "é"}
    text = b'{"a":"\\u00e9","b":[1,2.5,null,true]}'
    assert content_key(value) == hashlib.sha256(text).hexdigest()


def test_content_key_tells_values_apart() -> None:
    values = [1, 1.0, "1", True, None, [], {}, [1], ["1"], [[1]], {"a": 1}, {"a": [1]}]
    assert len({content_key(value) for value in values}) == len(values)


@pytest.mark.parametrize(
    ("value", "error"), [(Path("x"), TypeError), (float("nan"), ValueError), ({1j}, TypeError)]
)
def test_content_key_takes_json_only(value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        content_key({"value": value})


def test_background_hashes_are_the_files_own(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_text(file.name, encoding="utf-8")
    with hashing.BackgroundHashes(tmp_path, [*files, files[0], tmp_path / "missing"]) as hashes:
        assert [hashes.record(file) for file in files] == [hashing.file_record(tmp_path, f) for f in files]
        with pytest.raises(FileNotFoundError):
            hashes.record(tmp_path / "missing")


def test_leaving_gives_up_what_is_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "REPORTED", 1)
    file = tmp_path / "endless"
    file.write_bytes(b"x" * 10)

    class Endless:
        """Never ends, unless its reader does."""

        def readinto(self, buffer: memoryview) -> int:
            return 1

        def __enter__(self) -> Endless:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(Path, "open", lambda *_, **__: Endless())
    with hashing.BackgroundHashes(tmp_path, [file]) as hashes:
        pass
    with pytest.raises(InterruptedError):
        hashes.record(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0a" * 32, True), ("0A" * 32, False), ("0a" * 31, False), ("0a" * 32 + "\n", False), ("", False)],
)
def test_a_sha256_is_64_lowercase_digits(text: str, expected: bool) -> None:
    assert is_sha256(text) is expected
