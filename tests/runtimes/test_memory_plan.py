"""Which graphs stay open within a budget of memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import CallMemory, Evidence, MemoryUse
from artifacts.manifest import DimRange, FileRecord, Manifest, TensorSpec
from artifacts.progress import silent
from artifacts.units import parse_bytes
from runtimes import artifact_opening
from runtimes import graphs as module
from runtimes.graph_memory import DIVISIONS, CallSize, GraphMemory
from runtimes.graphs import Graphs
from runtimes.memory_plan import MemoryPlan, budget_of, memory_plan
from runtimes.pipeline import load
from runtimes.tiles import Tiling
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled
from tests.runtimes.test_graphs import Factory

SIZES = {"text_encoder": 300, "unet": 900, "vae_decoder": 200, "vae_encoder": 100}


def manifest() -> Manifest:
    """Graphs of `SIZES` bytes without inputs and outputs."""
    whole = tiny.manifest()
    graphs = tuple(graph.model_copy(update={"inputs": (), "outputs": ()}) for graph in whole.graphs)
    files = tuple(FileRecord(path=f"{g}/model.fake", sha256="a" * 64, size=n) for g, n in SIZES.items())
    return whole.model_copy(update={"graphs": graphs, "files": files})


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Factory:
    factory = Factory()
    monkeypatch.setattr(module.session_table, "get", lambda target: factory)
    return factory


def drawn(factory: Factory, budget: int | None) -> tuple[list[str], list[int], list[Any]]:
    """What is opened for a picture of two steps and one more, how often each was closed, and the results."""
    pool = Graphs(Path(), manifest(), "cpu", None, silent, budget=budget)
    inputs = {"sample": np.ones(2, np.float32)}
    calls = ["text_encoder", "unet", "unet", "vae_decoder"] * 2
    results = [pool.run(graph, inputs)["out"].tolist() for graph in calls]
    closed = [session.closed for session in factory.sessions]
    pool.close()
    assert all(session.closed == 1 for session in factory.sessions)
    return [opened[0].parent.name for opened in factory.opened], closed, results


def test_with_enough_memory_nothing_is_closed(factory: Factory) -> None:
    for budget in (None, 1400):
        factory.opened.clear()
        factory.sessions.clear()
        opened, closed, _ = drawn(factory, budget)
        assert opened == ["text_encoder", "unet", "vae_decoder"] and closed == [0, 0, 0]


@pytest.mark.slow
def test_the_least_recently_used_is_closed_for_another(factory: Factory) -> None:
    opened, closed, _ = drawn(factory, 1100)  # the denoiser and the decoder, or the encoder and the decoder
    assert opened == ["text_encoder", "unet", "vae_decoder"] * 2
    assert closed == [1, 1, 1, 1, 0, 0], (
        "the denoiser and the decoder fit together; the text encoder not beside them"
    )


@pytest.mark.slow
def test_one_graph_at_a_time_gives_the_same(factory: Factory) -> None:
    _, _, whole = drawn(factory, None)
    factory.opened.clear()
    factory.sessions.clear()
    opened, closed, results = drawn(factory, 900)
    assert results == whole
    assert opened == ["text_encoder", "unet", "vae_decoder"] * 2
    assert closed == [1, 1, 1, 1, 1, 0]


def test_what_graphs_need_is_derived_from_files_and_the_largest_shapes() -> None:
    plan = memory_plan(manifest(), None)
    assert (plan.together, plan.smallest) == (1500, 900)
    graph = tiny.manifest().graphs[0]
    spec = graph.inputs[0].model_copy(update={"dtype": "float16", "shape": ("batch", 3, "n")})
    graph = graph.model_copy(
        update={"inputs": (spec,), "outputs": (), "dims": {"batch": DimRange(min=1, max=4)}}
    )
    whole = manifest().model_copy(update={"graphs": (graph,)})
    memory = memory_plan(whole, None).graphs[graph.folder]
    assert not memory.measured and memory.call(memory.largest) == 4 * 3 * 2


def measured(
    graphs: dict[str, tuple[int, int]], process: int = 0, cuts: tuple[tuple[int, ...], ...] = ()
) -> Manifest:
    """Graphs that were measured: bytes that stay, and those of a call of one picture; the decoder's picture varies."""
    whole = manifest()
    records = []
    for graph in tiny.manifest().graphs:
        opened, call = graphs[graph.folder]
        cells, pixels = DimRange(min=8, max=32), DimRange(min=16, max=64)
        dims = {"b": DimRange(min=1, max=4), "height": cells, "width": cells}
        ends = {
            "inputs": (TensorSpec(name="latent_sample", dtype="float32", shape=("b", 4, "height", "width")),),
            "outputs": (TensorSpec(name="out", dtype="float32", shape=("b", 3, "height_2", "width_2")),),
            "dims": dims | {"height_2": pixels, "width_2": pixels},
        }
        is_decoder = graph.folder == "vae_decoder"
        spec: Any = ends if is_decoder else {"inputs": (), "outputs": (), "dims": {}}
        sides = ((8, 1), (32, 4)) if is_decoder else ((0, 1),)
        calls = tuple(
            CallMemory(sizes={}, elements=n * (4 * h * h + 3 * 4 * h * h), anonymous=call * n * h * h // 4096)
            if is_decoder
            else CallMemory(sizes={}, elements=0, anonymous=call)
            for h, n in sides
        )
        use = MemoryUse(
            opening=opened + 7,
            anonymous=opened,
            file_backed=5,
            calls=calls,
            process=process,
            cuts=cuts,
        )
        evidence = Evidence(compute="fp32", device="cpu", check="quick", error={"out": 0.0}, memory=use)
        records.append(graph.model_copy(update={"evidence": (evidence,), **spec}))
    return whole.model_copy(update={"graphs": tuple(records)})


USES = {"text_encoder": (300, 10), "unet": (900, 90), "vae_decoder": (200, 4096), "vae_encoder": (100, 10)}


def test_a_measured_plan_counts_what_stays_and_a_call() -> None:
    plan = memory_plan(measured(USES, process=50), None, process=True)
    decoder = plan.graphs["vae_decoder"]
    assert plan.measured and plan.process == 50
    assert decoder.total == 200 + 4096 and decoder.call(decoder.largest // 2) == 2048
    assert plan.together == 50 + 310 + 990 + 4296 + 110
    assert plan.smallest == 50 + 200 + 4096 // 3, "the decoder runs in tiles"
    # Of half the side: a quarter of the pixels of four pictures.
    half = memory_plan(measured(USES), None, picture=(32, 32)).graphs["vae_decoder"]
    assert half.call(half.largest) == pytest.approx(4096 * ((8 + 24 / 3) / 32) ** 2, rel=0.3)


def test_of_a_length_without_a_limit_the_longest_that_was_measured_is_planned() -> None:
    whole = measured(USES)
    encoder = whole.graphs[0]
    spec = TensorSpec(name="hidden", dtype="float32", shape=(1, "tokens", 8))
    calls = tuple(
        CallMemory(sizes={}, elements=16 * tokens, anonymous=1000 * tokens) for tokens in (300, 900)
    )
    evidence = encoder.evidence[0]
    assert evidence.memory is not None
    evidence = evidence.model_copy(update={"memory": evidence.memory.model_copy(update={"calls": calls})})
    ends = {"inputs": (spec,), "outputs": (spec,), "dims": {}, "evidence": (evidence,)}
    plan = memory_plan(whole.model_copy(update={"graphs": (encoder.model_copy(update=ends),)}), None)
    memory = plan.graphs[encoder.folder]
    assert memory.call(memory.largest) == 900_000
    short = memory.for_call(600 * 8)
    assert short.call(short.largest) == 600_000


def test_what_makes_no_pictures_has_a_plan_too() -> None:
    """Its artifact declares no width."""
    sounds = measured(USES).model_copy(update={"sizes": {}})
    assert memory_plan(sounds, None, picture=(32, 32)).ways == memory_plan(sounds, None).ways


def test_ways_are_told_from_the_fastest_to_the_smallest() -> None:
    plan = memory_plan(measured(USES), 1600)
    sizes = [way.bytes for way in plan.ways]
    assert sizes == sorted(sizes, reverse=True)
    assert plan.text == "one graph at a time, pictures in tiles"
    plan.check()
    with pytest.raises(LatentcError, match="needs at least .* of memory, as measured"):
        memory_plan(measured(USES), 200).check()


CALLS = (CallSize(1, 100),)
GRAPH = GraphMemory("unet", 4000, 1600, 0, CALLS, 1, 1, True)


def test_a_graph_that_does_not_fit_runs_in_parts_of_which_as_many_stay_open_as_do() -> None:
    assert (GRAPH.total, GRAPH.smallest) == (4000, 4000 // 16 + 20), (
        "what crosses lies beside a part's opening"
    )
    # Opening takes 2,400 beyond what stays; in three parts 800 of them at once.
    three = GRAPH.division(1600 + 800 + 20)
    assert (three.parts, three.share) == (3, 1.0) and three.bytes(GRAPH) == 1066 + 1333 + 20
    two = GRAPH.division(1600 + 1200 + 20)
    assert (two.parts, two.share) == (2, 1.0)
    few = GRAPH.division(800 + 4000 // 12 + 20)
    assert (few.parts, few.kept) == (12, frozenset(range(6)))
    assert few.bytes(GRAPH) == 800 + 4000 // 12 + 20 and few.opened(GRAPH) == 800 + 1600 // 12
    assert not GRAPH.division(250 + 20).kept
    # Half of it stays open in four parts as in sixteen, which would round more often.
    level = replace(GRAPH, opening=1600)
    half = level.division(800 + 400 + 120)
    assert (half.parts, half.share) == (4, 0.5)

    def plan(budget: int) -> MemoryPlan:
        return MemoryPlan({"unet": GRAPH}, budget, 50)

    assert plan(4050).division("unet") is None and plan(4050).room("unet") == 2400
    assert plan(2480).division("unet") == GRAPH.division(2430)
    assert plan(1220).room("unet") == 1220 - 50 - 800 - 1600 // 12
    assert (plan(1220).taken, plan(4050).taken) == (50 + 800 + 333 + 20, 4050), "half of the parts stay open"


def test_the_plan_counts_the_parts_that_the_file_is_cut_into() -> None:
    """Of parts of other sizes other ones stay open; what is planned is what is done."""
    cuts = tuple((70, 10, 10, 10) if parts == 4 else (100,) for parts in DIVISIONS)
    uneven = replace(GRAPH, opening=1600, cuts=cuts)
    assert uneven.smallest == int(1600 * 0.7) + 120
    large = uneven.division(1120 + 160 + 120)
    assert (large.parts, large.kept, large.bytes(uneven)) == (4, frozenset({0}), 1120 + 160 + 120)
    small = uneven.division(1120 + 160 + 119)
    assert (small.parts, small.kept, small.bytes(uneven)) == (4, frozenset(), 1120 + 120)
    manifest_with = measured(USES, cuts=cuts)
    assert memory_plan(manifest_with, None).graphs["unet"].cuts == cuts
    assert memory_plan(measured(USES, cuts=cuts[:1]), None).graphs["unet"].cuts == (), "of another version"


def test_the_plan_counts_what_stays_open_beside_a_graph() -> None:
    graphs = {name: replace(GRAPH, graph=name, opening=n, opened=n) for name, n in SIZES.items()}

    def taken(budget: int | None) -> int | None:
        return MemoryPlan(graphs, budget).taken

    assert taken(None) == taken(1900) == sum(SIZES.values()) + 400
    assert taken(1450) == 300 + 900 + 200, "the text encoder stays open until the decoder opens"
    assert taken(1100) == 1000, "the denoiser alone"


def test_what_opening_alone_takes_is_not_counted_beside_another_graph() -> None:
    first = GraphMemory("text_encoder", 1000, 300, 0, CALLS, 1, 1, True)
    second = GraphMemory("unet", 900, 500, 0, CALLS, 1, 1, True)
    graphs = {"text_encoder": first, "unet": second}
    plan = MemoryPlan(graphs, None, 50)
    assert plan.taken == plan.together == plan.ways[0].bytes == 50 + 400 + 900, (
        "300 and a call's 100 are kept"
    )
    enough = MemoryPlan(graphs, plan.together, 50)
    assert enough.to_close("unet", ("text_encoder",)) == ()
    assert MemoryPlan(graphs, plan.together - 1, 50).to_close("unet", ("text_encoder",)) == ("text_encoder",)


def test_a_picture_that_was_not_compiled_has_no_plan() -> None:
    with pytest.raises(UsageError, match="width of 16 to 64; found a width of 512"):
        memory_plan(measured(USES), None, picture=(512, 32))


def test_a_call_that_does_not_fit_is_made_in_the_largest_tiles_that_do(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Graphs(Path(), measured(USES), "cpu", None, silent, budget=1000)
    arrays = {"latent_sample": np.zeros((1, 4, 32, 32), np.float32)}
    tiling = pool.tiling("vae_decoder", arrays, Tiling())
    # 975 bytes are left beside what is open of the graph; a call of 32 by 32 cells takes 1,024, one of 31 by 31 961.
    assert (tiling.mode, tiling.side, tiling.slices) == ("on", 31 * 2, True)
    assert pool.tiling("vae_decoder", arrays, Tiling(mode="off")).mode == "off"
    small = {"latent_sample": np.zeros((1, 4, 16, 16), np.float32)}
    assert pool.tiling("vae_decoder", small, Tiling()) == Tiling()


@pytest.mark.slow
def test_memory_that_vanishes_closes_graphs_and_then_is_one_line(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"bytes": 10**9}
    monkeypatch.setattr(module, "available", lambda: free["bytes"])
    monkeypatch.setattr(module, "BESIDE", 0)
    pool = Graphs(Path(), measured(USES), "cpu", None, silent, budget=10**9)
    pool.open("text_encoder")
    free["bytes"] = 700  # The other 300 are the text encoder's.
    pool.open("unet")
    assert [session.closed for session in factory.sessions] == [1, 0]
    free["bytes"] = 5
    with pytest.raises(LatentcError, match="'vae_encoder' needs .* of memory at least, and 5 B are free now"):
        pool.open("vae_encoder")
    free["bytes"] = 10**9
    pool.open("vae_encoder")


def test_memory_that_vanished_since_is_one_line_before_a_picture_is_begun(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"bytes": 10**9}
    monkeypatch.setattr(module, "available", lambda: free["bytes"])
    monkeypatch.setattr(module, "BESIDE", 0)
    pool = Graphs(Path(), measured(USES), "cpu", None, silent, budget=10**9)
    pool.check_memory()
    pool.open("unet")
    free["bytes"] = 5
    pool.check_memory()  # The denoiser can be closed for the decoder.
    pool.close()
    assert not pool.held_sessions()
    with pytest.raises(LatentcError, match="needs .* of memory at least, and 5 B are free now"):
        pool.check_memory()


def test_another_task_may_open_graphs_while_memory_is_looked_at(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available", lambda: 10**9)
    pool = Graphs(Path(), measured(USES), "cpu", None, silent, budget=10**9)
    pool.open("text_encoder")

    class Busy(dict[str, Any]):
        """While a graph is looked up, another thread opens one."""

        def __getitem__(self, folder: str) -> Any:
            pool._sessions[f"opened with {folder}"] = pool._sessions["text_encoder"]
            return super().__getitem__(folder)

    monkeypatch.setattr(pool, "plan", replace(pool.plan, graphs=Busy(pool.plan.graphs)))
    pool.check_memory()
    pool._sessions.pop("opened with text_encoder")
    assert pool._plan_now().budget == 10**9


def test_where_memory_has_vanished_a_small_picture_is_drawn_and_a_large_one_is_not(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available", lambda: 800)
    monkeypatch.setattr(module, "BESIDE", 100)
    with pytest.raises(LatentcError, match="'vae_decoder' needs 1.7 kB of memory at least, and 800 B are"):
        call_decoder(4, 32)
    call_decoder(1, 8)
    monkeypatch.setattr(module, "BESIDE", 720)
    with pytest.raises(LatentcError, match="'vae_decoder' needs 8.. B of memory"):
        call_decoder(1, 8)


def call_decoder(batch: int, cells: int) -> None:
    pool = Graphs(Path(), measured(USES), "cpu", None, silent, budget=10**9)
    try:
        pool.run("vae_decoder", {"sample": np.zeros((batch, 4, cells, cells), np.float32)})
    finally:
        pool.close()


def test_a_budget_that_holds_no_graph_says_the_smallest() -> None:
    memory_plan(manifest(), 900).check()
    with pytest.raises(LatentcError, match=r"'unet' needs at least 900 B .* the budget is 899 B") as caught:
        memory_plan(manifest(), 899).check()
    assert "--memory 1M" in caught.value.hint


@pytest.mark.parametrize("text", ["", "many", "-1", "0", "6X", "1e9", 0, -5, True])
def test_what_is_no_budget(text: Any) -> None:
    with pytest.raises(UsageError, match=r"is no amount of memory; expected bytes, e.g. 600M or 6G"):
        budget_of(text)


def test_budgets() -> None:
    assert budget_of("1.5G") == parse_bytes("1.5gb") == 1_500_000_000
    assert budget_of(7) == 7 and budget_of(None) is None


def test_it_is_refused_before_anything_is_read(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny.publish(compiled.root, tmp_path / "artifact")
    monkeypatch.setattr(artifact_opening, "Opening", lambda *args, **kwargs: pytest.fail("it was read"))
    with pytest.raises(LatentcError, match="the budget is 1 B"):
        load(root, memory="1")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"memory": "much"}, "'much' is no amount of memory"),
        ({"memory": "1K"}, "the budget is 1.0 kB"),
        ({"max_part": "0"}, "'0' is no amount of memory"),
        ({"tile": "large"}, "a tile is auto, off or a number of pixels"),
        ({"device": "prior=cpu"}, "no component 'prior' to place on a device"),
        ({"device": "unet=npu"}, "has no device 'npu' here"),
    ],
)
def test_what_is_asked_wrongly_is_one_line_and_opens_nothing(
    options: dict[str, Any], says: str, compiled: Compiled, factory: Factory, tmp_path: Path
) -> None:
    root = tiny.publish(compiled.root, tmp_path / "artifact")
    with pytest.raises(LatentcError, match=says) as caught:
        load(root, **options)
    assert "\n" not in caught.value.message
    assert not factory.opened
