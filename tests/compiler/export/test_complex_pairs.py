"""Complex programs against the same programs on real pairs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from artifacts.errors import LatentcError
from compiler.export.complex_pairs import without_complex
from tests.compiler.made import Function


class Rotary(torch.nn.Module):
    """Rotary embeddings as diffusion transformers have them: a table, an index, a product."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(16.0), 100.0 ** -torch.linspace(0, 1, 4))
        self.register_buffer("table", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        rotation = self.table[ids].to(torch.complex64).unsqueeze(2)
        return torch.view_as_real(pairs * rotation).flatten(3)


def _z(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))


def _written(x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(4, 3, dtype=torch.complex64)
    out[:, 1:] = _z(x)[:, 1:] * 1j
    out[1] = 2.0
    return out.abs()


def _sequences(z: torch.Tensor) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([z[0], z[1, :2], z[2, 1:]], batch_first=True, padding_value=2.0)


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "polar": lambda x: torch.view_as_real(torch.polar(x.abs(), x) * torch.polar(x * 0 + 2, -x)),
    "real scale": lambda x: torch.view_as_real(3 * _z(x) * x[:, :3] / 7),
    "conjugate": lambda x: (_z(x).conj() * _z(x)).real,
    "imaginary": lambda x: (_z(x) * (1 + 2j)).imag,
    "quotient": lambda x: torch.view_as_real(_z(x) / (_z(x + 3) + 1)),
    "exponential": lambda x: torch.exp(_z(x)).abs(),
    "real by complex": lambda x: torch.view_as_real(x[:, :3] - _z(x)),
    "matrix": lambda x: torch.view_as_real(_z(x) @ _z(x).transpose(0, 1)),
    "list": lambda x: torch.view_as_real(torch.cat([_z(x), *_z(x * 2).split([1, 2], dim=1)], dim=1)),
    "mixed list": lambda x: torch.view_as_real(torch.cat([_z(x), torch.complex(x, x.flip(0))], dim=1)),
    "written": _written,
    "sequences": lambda x: torch.view_as_real(_sequences(_z(x))),
}


def _compare(program: torch.export.ExportedProgram, *points: tuple[torch.Tensor, ...]) -> None:
    expected = [program.module()(*point) for point in points]
    real = without_complex(program)
    for node in real.graph.nodes:
        value = node.meta.get("val")
        assert not (isinstance(value, torch.Tensor) and value.dtype.is_complex), node
    for point, result in zip(points, expected, strict=True):
        torch.testing.assert_close(real.module()(*point), result, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    _compare(torch.export.export(Function(FUNCTIONS[name]), (x,), strict=False), (x,))


def test_rotary_embedding_with_dynamic_sizes() -> None:
    auto = torch.export.Dim.AUTO
    x, ids = torch.randn(2, 5, 3, 8), torch.tensor([[0, 3, 1, 2, 9], [4, 4, 0, 15, 7]])
    program = torch.export.export(
        Rotary(), (x, ids), dynamic_shapes=({0: auto, 1: auto}, {0: auto, 1: auto}), strict=False
    )
    _compare(program, (x, ids), (torch.randn(3, 7, 3, 8), torch.arange(21).reshape(3, 7) % 16))


def test_a_program_without_complex_numbers_is_left_alone() -> None:
    program = torch.export.export(Function(lambda x: x + 1), (torch.zeros(2),), strict=False)
    assert without_complex(program) is program


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.view_as_real(torch.fft.fft(x)), "no rule"),
        (lambda x: _z(x), "result"),
    ],
)
def test_what_has_no_real_form_is_refused(function: Callable[..., torch.Tensor], message: str) -> None:
    program = torch.export.export(Function(function), (torch.randn(4, 6),), strict=False)
    with pytest.raises(LatentcError, match=message):
        without_complex(program)
