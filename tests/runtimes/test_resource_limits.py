"""What is made of files that others wrote ends when it grows too large."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from artifacts.errors import LatentcError
from runtimes import resource_limits
from runtimes.pipeline_parts import check_padding
from runtimes.resource_limits import bounded


def test_what_is_made_within_the_limits_is_made() -> None:
    with bounded("a module", elements=12):
        module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        assert torch.zeros(4).sum() == 0
    assert len(list(module.parameters())) == 4


def test_too_many_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_limits, "MODULES", 100)
    with (
        pytest.raises(LatentcError, match="^a module is too large: it has more than 100 modules"),
        bounded("a module"),
    ):
        torch.nn.ModuleList(torch.nn.Identity() for _ in range(10**7))


def test_more_weights_than_the_files_can_hold() -> None:
    with (
        pytest.raises(LatentcError, match="more than 1000 weights"),
        bounded("a module", elements=1000),
        torch.device("meta"),
    ):
        torch.nn.Embedding(10**9, 128)


def test_a_tensor_is_measured_before_it_is_made() -> None:
    start = time.process_time()
    for make in (
        lambda: torch.zeros(10**5, 10**5),
        lambda: torch.arange(10**12),
        lambda: torch.linspace(0, 1, 10**11),
    ):
        with pytest.raises(LatentcError, match="makes a tensor of"), bounded("a scheduler"):
            make()
    assert time.process_time() - start < 10
    with bounded("a module"), torch.device("meta"):
        assert torch.zeros(10**5, 10**5).is_meta


def test_parameters_are_counted_and_no_memory_that_they_do_not_take() -> None:
    """A parameter is made empty, and freed before it is written."""
    from accelerate import init_empty_weights

    with bounded("a module", elements=10**8), init_empty_weights(include_buffers=False):
        assert torch.nn.Embedding(10**6, 64).weight.is_meta
    with (
        pytest.raises(
            LatentcError, match=r"a tensor of \[10000000, 64\], and its files hold at most 100000000"
        ),
        bounded("a module", elements=10**8),
        init_empty_weights(include_buffers=False),
    ):
        torch.nn.Embedding(10**7, 64)
    with pytest.raises(LatentcError, match="makes a tensor of"), bounded("a module", elements=10**9):
        torch.empty(10**9, dtype=torch.uint8).fill_(1)


def test_what_is_computed_of_tensors_is_measured_before_it_is_there() -> None:
    with pytest.raises(LatentcError, match=r"makes a tensor of \[1000000, 1000000\]"), bounded("a table"):
        torch.outer(torch.arange(10**6), torch.arange(10**6))


def test_a_loop_of_objects_is_ended_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of 10**9 classes, as a configuration of transformers makes them."""
    monkeypatch.setattr(resource_limits, "BLOCKS", 100_000)
    with pytest.raises(LatentcError, match="more than 100000 objects"), bounded("a configuration"):
        {i: f"LABEL_{i}" for i in range(10**9)}


def test_a_loop_that_keeps_nothing_is_ended_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it catches what it can."""
    monkeypatch.setattr(resource_limits, "CPU_SECONDS", 0.1)
    monkeypatch.setattr(resource_limits, "WALL_SECONDS", 0.1)

    def forever() -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:
                continue

    with pytest.raises(LatentcError, match="takes more than 0 seconds"), bounded("a scheduler"):
        forever()


def test_other_threads_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_limits, "MODULES", 10)
    monkeypatch.setattr(resource_limits, "TENSOR", 1000)
    entered, done = threading.Event(), threading.Event()

    def bound() -> None:
        with bounded("a module"):
            entered.set()
            done.wait(30)

    thread = threading.Thread(target=bound)
    thread.start()
    assert entered.wait(30)
    assert len(torch.nn.ModuleList(torch.nn.Identity() for _ in range(20))) == 20
    assert torch.zeros(1000).sum() == 0
    done.set()
    thread.join()


def test_an_error_of_what_is_made_stays_itself() -> None:
    with pytest.raises(ValueError, match="its own"), bounded("a module"):
        raise ValueError("its own")
    with pytest.raises(LatentcError, match="more memory than there is"), bounded("a scheduler"):
        np.zeros(1 << 60, np.uint8)
    before = threading.active_count()
    for _ in range(20):
        with bounded("a module"):
            pass
    time.sleep(0.3)
    assert threading.active_count() <= before


@pytest.mark.parametrize("figure", [0, -5, 10**9, 2**20 + 1, "77", [77], -0.5])
def test_a_tokenizer_pads_to_what_memory_holds(figure: object) -> None:
    with pytest.raises(LatentcError, match="the tokenizer pads or cuts to .* tokens; 1 to 1048576 can be"):
        check_padding(SimpleNamespace(model_max_length=figure), "tokenizer")
    for name in ("padding", "truncation"):
        for key in ("length", "max_length", "pad_to_multiple_of"):
            backend = SimpleNamespace(**{"padding": None, "truncation": None, name: {key: figure}})
            with pytest.raises(LatentcError, match="pads or cuts to"):
                check_padding(SimpleNamespace(model_max_length=77, backend_tokenizer=backend), "tokenizer")


def test_paddings_that_tokenizers_have() -> None:
    for figure in (77, 131_072, int(1e30), None):
        check_padding(SimpleNamespace(model_max_length=figure), "tokenizer")
    check_padding(SimpleNamespace(), "scheduler")
