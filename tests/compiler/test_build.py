"""What a compile refuses before it starts, what it measures, and which parts are the same."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange, Recipe, RecipeComponent
from artifacts.progress import Event
from compiler import build
from compiler.capture.split import NotOneGraph, Submodule
from compiler.export.program import OneSizeOnly
from compiler.lowering import background_writer
from compiler.lowering.graph_job import GraphJob
from targets.options_from_text import parse
from targets.target_contract import Availability, Requirements
from tests.compiler.made import method, request, stored


@dataclass(frozen=True)
class Options:
    """What the made-up target takes."""

    level: int = 1
    fast: bool = False
    name: str = "x"


class MadeUp:
    name = "made-up"
    requirements = Requirements((17, 21), frozenset({"fp32", "fp16"}), "weights", frozenset(), (), True)
    options = Options

    def available(self) -> Availability:
        return Availability(False, "made-up-sdk is not installed", "pip install made-up-sdk")


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("function", [build.compile, build.plan])
def test_an_unknown_target(tmp_path, function):
    with pytest.raises(UsageError, match=r"no target 'tensorrtx' \(there are: onnxruntime, openvino"):
        function(request(tmp_path / "out", target="tensorrtx"))


def test_an_unknown_option_is_told_those_there_are(tmp_path):
    with pytest.raises(UsageError, match=r"target 'onnxruntime' has no option 'fxi' \(it has: fix\)"):
        build.compile(request(tmp_path / "out", options={"fxi": "batch=1"}))


def test_an_unknown_check(tmp_path):
    with pytest.raises(UsageError, match=r"no check 'fast' \(there are: quick, full, none\)"):
        build.compile(request(tmp_path / "out", check="fast"))


def test_a_precision_that_the_target_does_not_take(tmp_path, monkeypatch):
    monkeypatch.setattr(build.targets, "get", lambda _: MadeUp())
    with pytest.raises(UsageError, match=r"'made-up' does not take bf16 \(it takes: fp16, fp32\)") as caught:
        build.compile(request(tmp_path / "out", precision="bf16"))
    assert caught.value.hint == "Use --precision fp16"


def test_a_target_that_is_not_installed_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(build.targets, "get", lambda _: MadeUp())
    with pytest.raises(LatentcError, match="cannot be built here: made-up-sdk is not installed") as caught:
        build.compile(request(tmp_path / "out"))
    assert caught.value.hint == "pip install made-up-sdk"
    assert list(tmp_path.iterdir()) == []


def test_options_are_of_their_defaults_types():
    texts = {"level": "3", "fast": "yes", "name": "y"}
    assert parse(MadeUp(), texts) == Options(3, True, "y")
    assert parse(MadeUp(), {"fast": "0"}) == Options()
    with pytest.raises(UsageError, match="--option level=high: expected int"):
        parse(MadeUp(), {"level": "high"})


def test_a_model_that_is_not_there_leaves_nothing_behind(tmp_path):
    with pytest.raises(LatentcError, match="there is no model 'no-such-model'"):
        build.compile(request(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_time_that_is_none_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    monkeypatch.setattr(build, "open_model", None)
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH is 'soon'"):
        build.compile(request(tmp_path / "out"))


def test_out_that_exists_is_refused_before_any_work(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_capture", None)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(UsageError, match="is not empty and no latentc artifact"):
        build.compile(request(out, model=str(folder())))
    assert [p.name for p in out.iterdir()] == ["mine"]


# --- one graph -----------------------------------------------------------------------------------


def job(**changes) -> GraphJob:
    weights = {"unet": {"w": stored("w", 1000, 1000)}}
    fields = {
        "request": request(Path("out"), check="quick"),
        "target": MadeUp(),
        "options": Options(),
        "source": SimpleNamespace(components=()),
        "captured": SimpleNamespace(weights=weights, residuals={}, classes={"unet": "diffusers:X"}),
        "method": method(used=frozenset({"w"})),
        "recipe": None,
        "checker": None,
        "progress": lambda event: None,
    }
    return GraphJob(**(fields | changes))


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("fp16", 2), ("bf16", 2)])
def test_what_will_be_written_follows_the_precision(precision, width):
    found = job(request=request(Path("out"), precision=precision))
    assert found.bytes == 1_000_000 * width


def quantized(scheme: str, **options) -> Recipe:
    return Recipe(components={"unet": RecipeComponent(scheme=scheme, options=options)})


def test_a_part_is_another_when_anything_that_shapes_it_is(tmp_path, monkeypatch):
    from artifacts.manifest import FileRecord

    class Built(MadeUp):
        def toolchain(self):
            return {"made-up-sdk": "1"}

    class Newer(MadeUp):
        def toolchain(self):
            return {"made-up-sdk": "2"}

    class Looser(Built):
        requirements = replace(MadeUp.requirements, tolerance={"fp32": 2e-3})

    def key(sha="a" * 64, config="{}", **changes) -> str:
        component = SimpleNamespace(name="unet", folder=tmp_path, config=config.encode())
        made = job(
            **{
                "target": Built(),
                "source": SimpleNamespace(component=lambda name: component, root=tmp_path, is_folder=True),
                **changes,
            }
        )
        return made.key({"unet": (FileRecord(path="unet/model.safetensors", sha256=sha, size=1),)})

    keys = [
        key(),
        key(sha="b" * 64),
        key(config='{"a": 1}'),
        key(target=Newer()),
        key(target=Looser()),
        key(options=Options(2)),
        key(method=method(folder="unet_2")),
        key(recipe=quantized("int8")),
        key(recipe=quantized("int8", asymmetric=True)),
        key(recipe=quantized("int8-activations")),
        key(
            recipe=quantized("int8-activations"),
            request=request(Path("out"), check="quick", calibration=("a cat",)),
        ),
        key(method=method(dims={"batch": DimRange(min=1, max=4)})),
        key(request=request(Path("out"), precision="fp16", check="quick")),
        key(captured=SimpleNamespace(residuals={"unet": ("mean",)}, classes={"unet": "diffusers:X"})),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    other = Recipe(components={"vae_decoder": RecipeComponent(scheme="int8")})
    assert key(recipe=other) == keys[0]
    assert key(request=request(Path("elsewhere"), model="another-name", check="quick")) == keys[0]


# --- a compile that is stopped -------------------------------------------------------------------


def test_a_stopped_compile_ends_the_writing_at_its_next_report():
    started, ended, reports = threading.Event(), threading.Event(), []

    class Job:
        def write(self, building, lowered):
            try:
                while True:
                    writer.report(Event("building the engine", 1, 100))
                    started.set()
            finally:
                ended.set()

    with pytest.raises(KeyboardInterrupt), background_writer.BackgroundWriter(reports.append) as writer:
        writer.write(Job(), None, None, ExitStack())
        assert started.wait(10)
        raise KeyboardInterrupt
    assert ended.is_set()


def test_weights_are_computed_by_one_thread_while_another_exports():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    counts = []

    class Job:
        def write(self, building, lowered):
            counts.append(torch.get_num_threads())

    with background_writer.BackgroundWriter(lambda event: None) as writer:
        writer.write(Job(), None, None, ExitStack())
    later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert counts == [1, before]
    assert torch.get_num_threads() == before


# --- methods that are no single graphs -----------------------------------------------------------


def jobs(
    monkeypatch: pytest.MonkeyPatch, errors: dict[str, Exception], one_length: bool = True
) -> tuple[build._Jobs, list[str]]:
    """Of one method for each name, whose graphs cannot be made where there is an error; and those that are made."""

    class Job:
        bytes = 0

        def __init__(self, *arguments: Any) -> None:
            self.folder = arguments[5].folder

        def key(self, files: Any) -> Any:
            return self.folder

        def lower(self, building: object) -> None:
            if self.folder in errors:
                raise errors[self.folder]

        def write(self, building: object, lowered: object) -> None:
            made.append(self.folder)

    made: list[str] = []
    monkeypatch.setattr(build, "GraphJob", Job)
    methods = [method(folder=name) for name in ("text_encoder", "unet", "vae")]
    captured = SimpleNamespace(methods=methods, one_length=one_length)
    work: Any = build._Jobs
    return work(None, None, None, None, captured, None, None, lambda event: None, None), made


WORKSPACE = SimpleNamespace(finished=lambda key: None, build=lambda key, needs: ExitStack())


def rows(counts: bool = True) -> OneSizeOnly:
    counted = method(rows=frozenset({"batch"} if counts else ()))
    return OneSizeOnly("holds for one size only.", counted, ["batch"])


def test_all_that_are_no_single_graphs_are_told_at_once_and_the_others_are_made(monkeypatch):
    apart = NotOneGraph(Submodule("vae"), "'vae.forward' cannot be one graph.")
    counted = rows()
    started, made = jobs(monkeypatch, {"unet": counted, "vae": apart})
    with pytest.raises(build.NotGraphs) as error:
        started.run(WORKSPACE, {})
    assert error.value.failures == (counted, apart)
    assert made == ["text_encoder"]
    ways = build._Ways()
    assert [ways.around(failure) for failure in error.value.failures] == [
        "unet.forward: a graph for each number of rows",
        "vae: smaller graphs of its parts",
    ]
    assert (ways.fixed_rows, ways.split) == ({("unet", "forward")}, {Submodule("vae"): apart})
    with pytest.raises(OneSizeOnly):  # It has graphs for each number of rows, and one fails all the same.
        ways.around(counted)


@pytest.mark.parametrize(("counts", "one_length"), [(False, True), (True, False)])
def test_what_holds_for_one_size_alone_ends_the_compile_at_once(monkeypatch, counts, one_length):
    started, made = jobs(monkeypatch, {"unet": rows(counts=counts)}, one_length)
    with pytest.raises(OneSizeOnly):
        started.run(WORKSPACE, {})
    assert "vae" not in made
