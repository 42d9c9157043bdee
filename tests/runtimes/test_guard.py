from __future__ import annotations

import pickle
import socket
import threading
from pathlib import Path

import pytest

from artifacts.errors import LatentcError
from runtimes.guard import guarded

PICKLE = pickle.dumps(Path("x"))


def unpickle() -> Path:
    found: Path = pickle.loads(PICKLE)  # noqa: S301
    return found


def test_no_pickle_and_no_connection_while_it_is_open() -> None:
    with guarded("a tokenizer"):
        with pytest.raises(LatentcError, match="a tokenizer would read a pickle"):
            unpickle()
        with pytest.raises(LatentcError, match="a tokenizer would open a network connection"):
            socket.getaddrinfo("localhost", 1)
        with socket.socket() as one, pytest.raises(LatentcError, match="would open a network connection"):
            one.connect(("127.0.0.1", 1))
    assert unpickle() == Path("x")


def test_an_inner_one_leaves_the_outer_open() -> None:
    with guarded("outer"):
        with guarded("inner"), pytest.raises(LatentcError, match="inner would"):
            unpickle()
        with pytest.raises(LatentcError, match="outer would"):
            unpickle()


def test_other_threads_go_on() -> None:
    read = []
    with guarded("a tokenizer"):
        thread = threading.Thread(target=lambda: read.append(unpickle()))
        thread.start()
        thread.join()
    assert read == [Path("x")]
