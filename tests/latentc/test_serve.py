"""`latentc serve` before it listens: what it needs, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.latentc.artifacts_made import made


def test_without_the_extra_it_says_what_to_install(latentc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "latentc.commands.serve.find_spec", lambda name: None if name == "fastapi" else there(name)
    )
    ended = latentc("serve", "out")
    assert ended.code == 1
    assert ended.err == (
        "Error: latentc serve needs packages that are not here: fastapi.\nRun: pip install 'latentc[serve]'\n"
    )


def test_without_ray_it_says_what_to_install(latentc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentc.commands.serve.find_spec", lambda name: None)
    ended = latentc("serve", "out", "--ray")
    assert ended.code == 1
    assert ended.err == (
        "Error: latentc serve --ray needs ray, which is not here.\nRun: pip install 'latentc[ray,serve]'\n"
    )


def test_replicas_are_ray_s(latentc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentc.commands.serve.find_spec", lambda name: True)
    assert "--ray needs a port" in latentc("serve", "out", "--ray", "--port", "0").err
    assert latentc("serve", "out", "--replicas", "2").code == 2
    assert latentc("serve", "out", "--ray", "--replicas", "2..1").code == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_other_machines_need_keys(latentc: Any, host: str) -> None:
    ended = latentc("serve", "out", "--host", host)
    assert ended.code == 2 and "--api-key-file" in ended.err and "--no-auth" in ended.err


def test_keys_and_nobody_s_keys_do_not_go_together(latentc: Any) -> None:
    assert latentc("serve", "out", "--no-auth", "--api-key-file", "keys").code == 2


@pytest.mark.parametrize(
    "url",
    [
        "pictures.example.org",
        "ftp://a",
        "https://",
        "https://a/path",
        "https://a b",
        "http://[",
        "http://a:99999",
        "http://:80",
        "http://a:b",
    ],
)
def test_where_browsers_come_from_is_an_address(latentc: Any, url: str) -> None:
    ended = latentc("serve", "out", "--public-url", url)
    assert ended.code == 2 and url in ended.err


def test_a_file_of_keys_that_is_not_there_is_named(latentc: Any, tmp_path: Path) -> None:
    ended = latentc("serve", "out", "--api-key-file", tmp_path / "keys")
    assert ended.code == 2 and str(tmp_path / "keys") in ended.err


def test_an_artifact_that_is_not_there_is_named(latentc: Any, tmp_path: Path) -> None:
    ended = latentc("serve", tmp_path / "none")
    assert ended.code != 0 and str(tmp_path / "none") in ended.err


def test_two_artifacts_of_one_name_are_refused(latentc: Any, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        made(tmp_path / folder / "model")
    ended = latentc("serve", tmp_path / "a" / "model", tmp_path / "b" / "model")
    assert ended.code == 2 and "'model'" in ended.err


def test_artifacts_of_the_hub_are_called_as_their_repositories(
    latentc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / ("0" * 40))
    served: list[str] = []
    monkeypatch.setattr("artifacts.hub_artifacts.fetch", lambda name, progress: tmp_path / ("0" * 40))
    monkeypatch.setattr("latentc.serving.server.make_server", lambda engines, *rest: engines)
    monkeypatch.setattr(
        "latentc.serving.server.serve", lambda engines: served.extend(e.name for e in engines)
    )
    ended = latentc("serve", "owner/name@main")
    assert ended.code == 0, ended.err
    assert served == ["name"]
    assert "two artifacts are called 'name'" in latentc("serve", "owner/name", "other/name").err
