"""What every target must do. Subclass it in ``tests/targets/``, name the class Test..., set `name`."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir
import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from artifacts.precisions import PRECISIONS
from artifacts.progress import Event, silent
from targets import target_table
from targets.target_contract import Context, Lowered, Target
from tests.contract.graphs import WIDTH, Denoiser

DIMS = {"batch": DimRange(min=1, max=5), "tokens": DimRange(min=1, max=17)}


class TargetContract:
    name: ClassVar[str]
    vendor: ClassVar[str]
    """The vendor's importable module."""

    @pytest.fixture
    def target(self) -> Target:
        return target_table.get(self.name)

    def lower(self, target: Target, denoiser: Denoiser, folder: Path, progress: Any = silent) -> Lowered:
        if denoiser.precision not in target.requirements.precisions:
            pytest.skip(f"{self.name} does not take {denoiser.precision}")
        graph = denoiser.model(target.requirements.opset[0])
        return target.lower(graph, target.options(), folder, Context(progress, DIMS))

    def stored(self, folder: Path) -> int:
        """Bytes of the files that hold the weights as they were given."""
        return sum(p.stat().st_size for p in folder.iterdir())

    def test_says_what_it_is(self, target: Target) -> None:
        assert target.name == self.name
        assert target.summary
        low, high = target.requirements.opset
        assert low <= high
        assert target.requirements.precisions <= set(PRECISIONS)
        assert target.requirements.typed in ("weights", "strong")
        tolerance = target.requirements.tolerance
        assert tolerance.keys() <= set(PRECISIONS)
        assert all(0 < limit < 1 for limit in tolerance.values()), "a wrong graph gives about 1"

    def test_options_are_frozen_with_defaults_and_documented(self, target: Target) -> None:
        options = target.options()
        assert hash(options) == hash(target.options())
        for option in dataclasses.fields(options):
            assert f"{option.name}:" in (target.options.__doc__ or "")
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(options, option.name, None)

    def test_is_available_with_a_toolchain(self, target: Target) -> None:
        assert target.available().ok
        assert target.toolchain()
        assert all(version for version in target.toolchain().values())

    def test_says_why_it_is_not_available(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec

        def hidden(name: str, package: str | None = None) -> Any:
            return None if name == self.vendor else find(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", hidden)
        answer = target.available()
        assert not answer.ok
        assert self.vendor in answer.reason
        assert answer.install.startswith("pip install ")

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
    def test_lists_exactly_the_files_it_wrote(self, target: Target, precision: str, tmp_path: Path) -> None:
        lowered = self.lower(target, Denoiser(precision), tmp_path)
        assert lowered.model_file in lowered.files
        found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
        assert found == set(lowered.files)
        assert not [p for p in tmp_path.iterdir() if p.is_dir() and not any(p.iterdir())]

    def test_reads_each_weight_once_and_keeps_none(self, target: Target, tmp_path: Path) -> None:
        denoiser = Denoiser("fp16")
        graph = denoiser.model(target.requirements.opset[0])
        before = {n: v.const_value for n, v in graph.graph.initializers.items()}
        target.lower(graph, target.options(), tmp_path, Context(dims=DIMS))
        assert sorted(denoiser.reads.names) == sorted(denoiser.weights())
        assert denoiser.reads.most == 1
        assert {n: v.const_value for n, v in graph.graph.initializers.items()} == before

    def test_weights_are_stored_in_their_precision(self, target: Target, tmp_path: Path) -> None:
        sizes = {}
        taken = [p for p in ("fp32", "fp16", "bf16") if p in target.requirements.precisions]
        for precision in taken:
            (tmp_path / precision).mkdir()
            self.lower(target, Denoiser(precision), tmp_path / precision)
            sizes[precision] = self.stored(tmp_path / precision)
        saved = 2 * 3 * WIDTH * WIDTH
        for precision in taken[1:]:
            assert sizes["fp32"] - sizes[precision] == pytest.approx(saved, abs=3000)

    def test_same_graph_same_files(self, target: Target, tmp_path: Path) -> None:
        contents = []
        for i in range(2):
            folder = tmp_path / str(i) / "unet"
            folder.mkdir(parents=True)
            lowered = self.lower(target, Denoiser("fp16"), folder)
            contents.append({f: (folder / f).read_bytes() for f in lowered.files})
        assert contents[0] == contents[1]

    def test_reports_progress_in_bytes(self, target: Target, tmp_path: Path) -> None:
        events: list[Event] = []
        self.lower(target, Denoiser(), tmp_path, events.append)
        in_bytes = [e for e in events if e.unit == "bytes"]
        assert in_bytes[-1].completed == in_bytes[-1].total == 3 * WIDTH * WIDTH * 4
        assert [e.completed for e in in_bytes] == sorted(e.completed for e in in_bytes)

    def test_an_unwritable_folder_is_our_error(self, target: Target, tmp_path: Path) -> None:
        with pytest.raises((LatentcError, FileNotFoundError), match=r"missing|cannot write"):
            self.lower(target, Denoiser(), tmp_path / "missing")

    def test_is_built_again_from_what_it_keeps(self, target: Target, tmp_path: Path) -> None:
        if target.rebuild is None:
            pytest.skip("this target keeps no graph")
        assert target.rebuild.applied <= {f.name for f in dataclasses.fields(target.options)}
        first, again = tmp_path / "first", tmp_path / "again"
        for folder in (first, again):
            folder.mkdir()
        lowered = self.lower(target, Denoiser("fp16"), first)
        assert target.rebuild.graph in lowered.files
        kept = ir.load(first / target.rebuild.graph)
        rebuilt = target.lower(kept, target.options(), again, Context(dims=DIMS))
        assert (rebuilt.files, rebuilt.built.keys()) == (lowered.files, lowered.built.keys())
        assert self.stored(again) == pytest.approx(self.stored(first), rel=0.01)

    def test_fixed_dimensions(self, target: Target, tmp_path: Path) -> None:
        if "fix" not in {f.name for f in dataclasses.fields(target.options)}:
            pytest.skip("this target has no such option")
        graph = Denoiser().model(target.requirements.opset[0])
        with pytest.raises(UsageError, match=r"no symbolic dimension 'width' \(it has: batch, tokens\)"):
            target.lower(graph, target.options(fix="width=2"), tmp_path, Context(dims=DIMS))
        with pytest.raises(UsageError, match=r"name=size.*'batch'"):
            target.lower(graph, target.options(fix="batch"), tmp_path, Context(dims=DIMS))
        target.lower(graph, target.options(fix="batch=2, tokens=3"), tmp_path, Context(dims=DIMS))
        assert str(graph.graph.inputs[0].shape) == "[batch,tokens,64]"
