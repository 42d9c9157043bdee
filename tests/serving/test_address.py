"""An address that is not to be had is told before a model is opened."""

from __future__ import annotations

import socket

import pytest

from artifacts.errors import LatentcError
from latentc.serving.server import Server, make_server, require_address, serve
from tests.serving.pretended import PretendedEngine


def test_a_port_that_is_taken_is_told_before_models_are_opened(monkeypatch):
    monkeypatch.setattr(Server, "run", lambda server: pytest.fail("it began"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            LatentcError, match=rf"127\.0\.0\.1 port {port} cannot be listened at: .+\w\.\n"
        ) as told:
            serve(make_server([PretendedEngine()], "127.0.0.1", port))
    assert told.value.hint.startswith("Another address: latentc serve")
    require_address("127.0.0.1", port)


def test_a_host_without_an_address_is_told():
    with pytest.raises(LatentcError, match="no-such-host.invalid port 8190 cannot be listened at"):
        require_address("no-such-host.invalid", 8190)


def test_any_port_is_to_be_had():
    require_address("no-such-host.invalid", 0)
