from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.errors import LatentcError
from bench.project.full_size import compile_costs
from bench.project.full_size.compile_costs import Figure, Runs, measure, table
from bench.project.memlimit import MIB, Usage


class FakeRuns(Runs):
    """Answers each command from a list, as `memlimit.run` would."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, usages: list[Usage], printed: str = ""
    ) -> None:
        super().__init__(tmp_path, True, lambda line: None)
        self.commands: list[tuple[list[str], int | None]] = []

        def fake(command, limit=None, env=None, cwd=None, output=None):  # type: ignore[no-untyped-def]
            self.commands.append((command, limit))
            output.write(printed.encode())
            return usages[len(self.commands) - 1]

        monkeypatch.setattr(compile_costs.memlimit, "run", fake)
        monkeypatch.setattr(compile_costs.peers, "python", lambda name, tell: Path("python-of-" + name))
        for name in ("sd15", "sdxl", "flux"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "model_index.json").write_text("{}")


def done(seconds: float) -> Usage:
    return Usage(0, False, seconds, 55.5, 1000 * MIB, 900 * MIB)


KILLED = Usage(137, True, 5.0, 4.0, 5120 * MIB, None)


def test_sd15_beside_the_peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = FakeRuns(monkeypatch, tmp_path, [done(30), done(80), done(40), done(100), KILLED])
    claims = measure(runs, ["sd15"], rounds=2, peer=True)
    assert [claim.holds for claim in claims] == [True, True, True]
    assert claims[1].measured == "0.39"
    limits = [limit for _, limit in runs.commands]
    assert limits == [1536 * MIB, None, 1536 * MIB, None, 5120 * MIB]
    assert [command[0] == "python-of-optimum-intel" for command, _ in runs.commands] == [False, True] * 2 + [
        True
    ]


def test_claims_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = FakeRuns(monkeypatch, tmp_path, [done(70), done(80), done(90)])
    assert [claim.holds for claim in measure(runs, ["sd15"], 1, peer=True)] == [True, False, False]
    runs = (
        FakeRuns(monkeypatch, tmp_path / "again", [KILLED]) if (tmp_path / "again").mkdir() is None else None
    )
    assert runs and [claim.holds for claim in measure(runs, ["sdxl"], 1, peer=True)] == [False]


def test_without_limits_nothing_is_claimed_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = FakeRuns(monkeypatch, tmp_path, [Usage(0, False, 9.0, None, None, 7 * MIB)] * 3)
    runs.limits = False
    claims = measure(runs, ["sd15", "sdxl"], 1, peer=False)
    assert [(claim.holds, claim.measured) for claim in claims] == [(None, "not measured")] * 2
    assert [limit for _, limit in runs.commands] == [None, None]


@pytest.mark.parametrize(("seconds", "holds"), [(80.0, True), (100.0, False)])
def test_the_graph_of_flux(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, holds: bool
) -> None:
    printed = f'a warning\n{{"capture": 50.0, "export": {seconds}, "nodes": 12}}\n'
    runs = FakeRuns(monkeypatch, tmp_path, [done(140)], printed)
    claims = measure(runs, ["flux"], 1, peer=True)
    assert [claim.holds for claim in claims] == [True, holds]


def test_a_command_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = FakeRuns(
        monkeypatch, tmp_path, [Usage(1, False, 1.0, 1.0, MIB, MIB)], "Traceback\nno such option\n"
    )
    with pytest.raises(LatentcError, match="no such option"):
        measure(runs, ["sdxl"], 1, peer=False)


def test_the_table_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usages = [done(30), done(80), KILLED, done(1234.5), done(200)]
    runs = FakeRuns(monkeypatch, tmp_path, usages, '{"capture": 50.0, "export": 80.0, "nodes": 12000}')
    claims = measure(runs, ["sd15", "sdxl", "flux"], 1, peer=True)
    text = table(runs.figures, claims)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "1234.5" in text and "55.5" in text and "killed" in text and "12,000 nodes" in text
    assert isinstance(runs.figures[0], Figure)


def test_quantized_compiles_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = FakeRuns(monkeypatch, tmp_path, [done(100), KILLED])
    claims = compile_costs.measure_quantized(runs, ["sdxl", "flux"], "unet=int4")
    assert [(claim.subject, claim.holds) for claim in claims] == [
        ("sdxl to OpenVINO unet=int4", True),
        ("flux to OpenVINO unet=int4", False),
    ]
    assert [limit for _, limit in runs.commands] == [2560 * MIB, 4096 * MIB]
    assert all(command[-2:] == ["--quantize", "unet=int4"] for command, _ in runs.commands)
