"""What every session must do. Subclass it in ``tests/runtimes/``, name the class Test..., set `target`."""

from __future__ import annotations

import builtins
import gc
import inspect
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import Built, DimRange
from artifacts.precisions import PRECISIONS
from runtimes.compute import device_of, natively
from runtimes.sessions import session_table as sessions
from runtimes.sessions.exact_sizes import TakesSizes
from runtimes.sessions.file_constants import TakesConstants
from runtimes.sessions.session_contract import (
    BringsFormat,
    ExplainsDevice,
    OpensParts,
    ReplacesFile,
    RunsCode,
    Session,
    SessionFactory,
)
from targets import target_table as targets
from targets.graph.onnx_files import symbols
from targets.target_contract import Context
from tests.contract.graphs import WIDTH, Denoiser, identity, model, named, value

# Relative to the output's norm, where fp32 is asked for: no other type must take its place.
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-5, "bf16": 1e-5}
# The same by the type that is computed in.
ROUNDING = {"fp32": 1e-5, "fp16": 3e-3, "bf16": 2e-2}


FURTHER = (RunsCode, ExplainsDevice, OpensParts, ReplacesFile, BringsFormat, TakesSizes, TakesConstants)
"""What a factory may be beside a `SessionFactory`."""


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


class SessionContract:
    target: ClassVar[str]
    vendor: ClassVar[str]
    """The vendor's importable module."""
    device: ClassVar[str] = "cpu"
    on_host: ClassVar[bool] = True
    """Whether `device` is the host's processor."""
    further: ClassVar[frozenset[type]] = frozenset()
    """Of `FURTHER`, what the factory is."""
    built: ClassVar[dict[Path, Built]] = {}
    """What the target said of each model file that `write` wrote."""

    @pytest.fixture
    def factory(self) -> SessionFactory:
        return sessions.get(self.target)

    def write(self, graph: ir.Model, folder: Path, **options: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        target = targets.get(self.target)
        dims = {name: DimRange(min=1, max=32) for name in symbols(graph)}
        written = target.lower(graph, target.options(**options), folder, Context(dims=dims))
        self.built[folder / written.model_file] = written.built
        return folder / written.model_file

    def open(
        self, file: Path, precision: str = "fp32", cache: Path | None = None, compute: str = ""
    ) -> Session:
        """A session of weights in `precision`, computed in `compute`: by default in fp32, where the device has it."""
        factory = sessions.get(self.target)
        if not compute:
            types = self.types(precision)
            compute = "fp32" if "fp32" in types else types[0]
        return factory.open(file, self.device, compute, cache, self.built.get(file))

    def types(self, precision: str) -> tuple[str, ...]:
        """What the device computes weights of `precision` in; where nothing is here, what the graph says."""
        device = device_of(sessions.get(self.target), self.device)
        return (precision,) if device is None else natively(device, precision)

    def denoiser(self, folder: Path, precision: str = "fp32") -> Session:
        if precision not in targets.get(self.target).requirements.precisions:
            pytest.skip(f"{self.target} does not take {precision}")
        return self.open(self.write(Denoiser(precision).model(), folder), precision)

    def test_lacks_nothing_where_its_device_is(self, factory: SessionFactory) -> None:
        assert factory.lacks({}) == ""

    def test_names_and_devices(self, factory: SessionFactory) -> None:
        assert factory.target == self.target
        names = [d.name for d in factory.devices()]
        assert self.device in names
        assert len(names) == len(set(names))
        assert [d.on_host for d in factory.devices() if d.name == self.device] == [self.on_host]

    def test_what_else_it_is_and_that_it_is_called_so(self, factory: SessionFactory) -> None:
        assert {protocol for protocol in FURTHER if isinstance(factory, protocol)} == self.further
        for protocol in self.further:
            for name, member in vars(protocol).items():
                if inspect.isfunction(member) and not name.startswith("_"):
                    _, *parameters = inspect.signature(member).parameters
                    assert list(inspect.signature(getattr(factory, name)).parameters) == parameters

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
    def test_computes_what_the_graph_says(self, precision: str, tmp_path: Path) -> None:
        session = self.denoiser(tmp_path, precision)
        for batch, tokens in ((2, 3), (1, 1), (5, 17)):
            inputs = Denoiser(precision).inputs(batch, tokens)
            found = session.run(inputs)
            expected = Denoiser(precision).expected(inputs)
            assert error(found["out_sample"], expected["out_sample"]) < TOLERANCE[precision]
            assert np.array_equal(found["flipped"], expected["flipped"])
            assert found["flipped"].dtype == np.bool_

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
    def test_computes_in_every_type_of_its_device(self, precision: str, tmp_path: Path) -> None:
        if precision not in targets.get(self.target).requirements.precisions:
            pytest.skip(f"{self.target} does not take {precision}")
        file = self.write(Denoiser(precision).model(), tmp_path)
        inputs = Denoiser(precision).inputs(2, 3)
        expected = Denoiser(precision).expected(inputs)["out_sample"]
        types = self.types(precision)
        assert types and set(types) <= set(PRECISIONS)
        assert precision != "fp32" or types[0] == "fp32" or "fp32" not in types
        for compute in types:
            session = self.open(file, precision, compute=compute)
            assert session.device == self.device
            assert error(session.run(inputs)["out_sample"], expected) < ROUNDING[compute]
            session.close()

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
    def test_other_constants_in_the_places_of_the_files(self, precision: str, tmp_path: Path) -> None:
        factory = sessions.get(self.target)
        if not isinstance(factory, TakesConstants):
            pytest.skip(f"the constants of {self.target} stay as they are")
        file = self.write(Denoiser(precision).model(), tmp_path)
        inputs = Denoiser(precision).inputs()
        before = self.open(file, precision).run(inputs)["out_sample"]
        constants = factory.constants(file)
        own = {name: stored.read() for name, stored in constants.items()}

        def out(replaced: dict[str, np.ndarray]) -> np.ndarray:
            session = factory.open_with(file, self.device, "fp32", replaced, self.built.get(file))
            try:
                return session.run(inputs)["out_sample"]
            finally:
                session.close()

        floats = {n: data for n, data in own.items() if "float" in constants[n].dtype and data.size > 4}
        assert np.array_equal(out(floats), before)
        largest = max(floats, key=lambda name: floats[name].size)
        assert not np.array_equal(out({largest: np.zeros_like(floats[largest])}), before)
        assert np.array_equal(self.open(file, precision).run(inputs)["out_sample"], before)
        for wrong in ({"nowhere": floats[largest]}, {largest: floats[largest][:-1]}):
            with pytest.raises(LatentcError, match="has no constant|bytes, not"):
                factory.open_with(file, self.device, "fp32", wrong, self.built.get(file))

    def test_specs_are_the_graphs(self, tmp_path: Path) -> None:
        session = self.denoiser(tmp_path)
        assert list(session.inputs) == ["sample", "timestep", "flag"]
        assert list(session.outputs) == ["out_sample", "flipped"]
        assert [s.dtype for s in session.inputs.values()] == ["float32", "int64", "bool"]
        assert session.inputs["timestep"].shape == ()
        assert session.inputs["sample"].shape[2] == WIDTH
        assert isinstance(session.inputs["sample"].shape[0], str)

    def test_fixed_dimensions_reach_the_session(self, tmp_path: Path) -> None:
        session = self.open(self.write(Denoiser().model(), tmp_path, fix="batch=2,tokens=3"))
        assert session.inputs["sample"].shape == (2, 3, WIDTH)
        inputs = Denoiser().inputs(2, 3)
        assert error(session.run(inputs)["out_sample"], Denoiser().expected(inputs)["out_sample"]) < 1e-5
        with pytest.raises(LatentcError, match=r"takes 'sample' as float32\[2, 3, 64\]"):
            session.run(Denoiser().inputs(1, 3))

    def test_outputs_are_the_callers(self, tmp_path: Path) -> None:
        session = self.denoiser(tmp_path)
        inputs = Denoiser().inputs()
        first = session.run(inputs)
        kept = {n: a.copy() for n, a in first.items()}
        second = session.run({**inputs, "sample": -inputs["sample"], "flag": ~inputs["flag"]})
        for name, array in first.items():
            assert np.array_equal(array, kept[name])
            assert not np.shares_memory(array, second[name])
            assert array.flags.writeable
            array[...] = 0
        again = session.run(inputs)
        assert all(np.array_equal(again[n], kept[n]) for n in kept)
        session.close()
        del session
        gc.collect()
        assert all(np.array_equal(again[n], kept[n]) for n in kept)

    def test_inputs_are_not_changed_and_any_layout_is_taken(self, tmp_path: Path) -> None:
        session = self.denoiser(tmp_path)
        inputs = Denoiser().inputs()
        strided = np.asfortranarray(inputs["sample"])
        strided.setflags(write=False)
        found = session.run({**inputs, "sample": strided})["out_sample"]
        assert error(found, Denoiser().expected(inputs)["out_sample"]) < 1e-5
        assert np.array_equal(strided, Denoiser().inputs()["sample"])

    def test_an_output_that_is_an_input_is_a_copy(self, tmp_path: Path) -> None:
        session = self.open(self.write(identity(ir.DataType.FLOAT, ["n"]), tmp_path))
        given = np.arange(4, dtype=np.float32)
        found = session.run({"in": given})["out"]
        found[...] = -1
        assert given.tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("dtype", ["FLOAT", "FLOAT16", "INT64", "INT32", "BOOL", "UINT8"])
    @pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
    def test_element_types_and_ranks(self, dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
        kind = ir.DataType[dtype]
        names: list[int | str] = [f"d{i}" for i in range(len(shape))]
        session = self.open(self.write(identity(kind, names), tmp_path))
        given = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind.numpy())
        found = session.run({"in": given})["out"]
        assert found.dtype == given.dtype
        assert found.shape == given.shape
        assert np.array_equal(found, given)

    def test_large_integers_are_exact(self, tmp_path: Path) -> None:
        session = self.open(self.write(identity(ir.DataType.INT64, ["n"]), tmp_path))
        given = np.array([-1, 49407, 2**31 - 1], np.int64)
        assert session.run({"in": given})["out"].tolist() == given.tolist()

    def test_empty_arrays(self, tmp_path: Path) -> None:
        x, y = value("x", ir.DataType.FLOAT, ["n", 4]), value("y", ir.DataType.FLOAT, ["m", 4])
        node = ir.node("Concat", [x, y], {"axis": 0})
        graph = model([x, y], [named(node, "z", ir.DataType.FLOAT, ["k", 4])], [node])
        session = self.open(self.write(graph, tmp_path))
        empty, full = np.empty((0, 4), np.float32), np.ones((3, 4), np.float32)
        assert session.run({"x": empty, "y": full})["z"].tolist() == full.tolist()
        assert session.run({"x": empty, "y": empty})["z"].shape == (0, 4)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sample": np.zeros((2, 3, WIDTH), np.float64)}, r"takes 'sample' as float32.*found float64"),
            (
                {"sample": np.zeros((2, 3, WIDTH - 1), np.float32)},
                r"takes 'sample' as .*found float32\[2, 3, 63\]",
            ),
            ({"timestep": np.zeros((1,), np.int64)}, r"takes 'timestep' as int64\[\]; found int64\[1\]"),
            ({"other": np.zeros(1, np.float32)}, r"not its own: \['other'\]"),
            ({"flag": None}, r"missing: \['flag'\]"),
        ],
    )
    def test_wrong_inputs(self, change: dict[str, Any], message: str, tmp_path: Path) -> None:
        session = self.denoiser(tmp_path)
        inputs = {n: a for n, a in (Denoiser().inputs() | change).items() if a is not None}
        with pytest.raises(LatentcError, match=message):
            session.run(inputs)

    def test_what_the_vendor_raises_names_the_graph_and_the_shapes(self, tmp_path: Path) -> None:
        x, y = value("x", ir.DataType.FLOAT, ["n", 4]), value("y", ir.DataType.FLOAT, ["m", 4])
        node = ir.node("Add", [x, y])
        graph = model([x, y], [named(node, "z", ir.DataType.FLOAT, ["k", 4])], [node])
        session = self.open(self.write(graph, tmp_path / "unet"))
        with pytest.raises(LatentcError, match=r"failed in unet with x float32\[2, 4\], y float32\[3, 4\]"):
            session.run({"x": np.zeros((2, 4), np.float32), "y": np.zeros((3, 4), np.float32)})

    def test_closing_twice_and_running_closed(self, tmp_path: Path) -> None:
        session = self.denoiser(tmp_path)
        session.close()
        session.close()
        with pytest.raises(LatentcError, match="closed"):
            session.run(Denoiser().inputs())

    def test_no_such_device(self, factory: SessionFactory, tmp_path: Path) -> None:
        file = self.write(Denoiser().model(), tmp_path)
        with pytest.raises(UsageError, match=r"no device 'gpu\.9' here \(there are: .*" + self.device):
            factory.open(file, "gpu.9", "fp32", None, self.built[file])
        assert factory.open(file, "auto", "fp32", None, self.built[file]).inputs

    def test_damaged_and_missing_files(self, factory: SessionFactory, tmp_path: Path) -> None:
        file = self.write(Denoiser().model(), tmp_path)
        file.write_bytes(b"\xff garbage")
        with pytest.raises(LatentcError, match=file.name):
            factory.open(file, self.device, "fp32", None, self.built[file])
        file.unlink()
        with pytest.raises(LatentcError, match=file.name):
            factory.open(file, self.device, "fp32", None, self.built[file])

    def test_links_are_refused(self, factory: SessionFactory, tmp_path: Path) -> None:
        file = self.write(Denoiser().model(), tmp_path / "real")
        weights = max((p for p in file.parent.iterdir() if p != file), key=lambda p: p.stat().st_size)
        elsewhere = tmp_path / "elsewhere"
        weights.rename(elsewhere)
        try:
            weights.symlink_to(elsewhere)
        except OSError:
            pytest.skip("no symbolic links here")
        with pytest.raises(LatentcError, match="plain file"):
            factory.open(file, self.device, "fp32", None, self.built[file])

    def test_without_the_vendors_package(
        self, factory: SessionFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = self.write(Denoiser().model(), tmp_path)
        real = builtins.__import__

        def missing(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == self.vendor:
                raise ImportError(f"No module named '{name}'")
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", missing)
        assert factory.devices() == ()
        with pytest.raises(LatentcError, match=rf"not installed.\nRun: pip install {self.vendor}"):
            factory.open(file, self.device, "fp32", None, self.built[file])

    def test_a_cache_changes_nothing_but_time(self, tmp_path: Path) -> None:
        file = self.write(Denoiser("fp16").model(), tmp_path / "unet")
        cache = tmp_path / "cache"
        cache.mkdir()
        inputs = Denoiser("fp16").inputs()
        found = [self.open(file, "fp16", cache).run(inputs)["out_sample"] for _ in range(2)]
        assert np.array_equal(found[0], found[1])
        assert error(found[0], Denoiser("fp16").expected(inputs)["out_sample"]) < 1e-5

    def test_threads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LATENTC_THREADS", "1")
        inputs = Denoiser().inputs()
        found = self.denoiser(tmp_path / "one").run(inputs)["out_sample"]
        assert error(found, Denoiser().expected(inputs)["out_sample"]) < 1e-5
        monkeypatch.setenv("LATENTC_THREADS", "many")
        with pytest.raises(UsageError, match=r"positive integer of at most 1024; found 'many'"):
            self.denoiser(tmp_path / "many")
