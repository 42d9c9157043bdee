"""The search under a budget, with a compiler that is a formula; and a weight's sensitivity, measured."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import PictureEvidence
from artifacts.progress import silent
from compiler import auto
from compiler.auto import Budget, Trial, as_recipe, largest, smallest
from compiler.evidence.quantized_pictures import EQUAL
from compiler.quantize import scheme_table, sensitivity
from compiler.quantize.accept import candidates
from compiler.quantize.allot import Allotment, Ladder, Option
from compiler.quantize.recipe import Choice
from targets import target_table as targets
from tests.compiler.made import request
from tests.compiler.passes.graphs import bind, parse

BESIDE = 5_000


def ladder(weights: int = 60) -> Ladder:
    """Weights of one size whose sensitivities differ by a factor of a thousand."""
    options = {}
    for i in range(weights):
        rate = 10 ** (-6 + 3 * i / weights)
        options["unet", f"w{i}"] = [
            Option("int4", 530, rate * 0.01),
            Option("int8", 1_010, rate * 0.0001),
            Option("none", 2_000, 0.0),
        ]
    return Ladder(options)


class Formula:
    """Compiles nothing: bytes are the weights' and what lies beside them, PSNR follows the predicted error."""

    def __init__(self, of: Ladder, offset: float = 0.0) -> None:
        self.ladder = of
        self.offset = offset
        self.tried: list[Allotment] = []

    def __call__(self, found: Allotment, prompts: int = 8) -> Trial:
        self.tried.append(found)
        psnr = 90.0 if found.error < 1e-12 else min(90.0, self.offset - 10 * math.log10(found.error))
        # The fewer bits, the more nodes.
        nodes = sum(10 for option in found.chosen.values() if option.scheme != "none")
        return Trial(found, found.bytes + BESIDE + nodes, PictureEvidence(psnr=psnr if prompts else None))

    def at(self, steps: int) -> Trial:
        return self(self.ladder.at(steps))


@pytest.mark.parametrize("offset", [-20.0, 0.0, 15.0])
def test_the_smallest_artifact_above_a_psnr(offset):
    formula = Formula(ladder(), offset)
    low, high = formula.at(0).psnr, formula.at(len(formula.ladder)).psnr
    for wanted in np.linspace(low + 1, min(high - 1, 70), 5):
        formula.tried.clear()
        best = smallest(formula.ladder, float(wanted), formula)
        tried = len(formula.tried)
        smaller = [one for n in range(len(formula.ladder)) if (one := formula.at(n)).bytes < best.bytes]
        assert wanted <= best.psnr
        assert best.psnr <= wanted + 2 or smaller[-1].psnr < wanted
        assert tried <= auto.TRIALS + 2


def test_a_psnr_that_anything_reaches_is_the_smallest_artifact():
    formula = Formula(ladder())
    assert smallest(formula.ladder, 1.0, formula).allotment == formula.ladder.at(0)


def test_a_psnr_out_of_reach_says_what_was_reached():
    formula = Formula(ladder())
    with pytest.raises(
        LatentcError, match=r"95 dB cannot be reached: with no weight in fewer bits it is 90\.0 dB"
    ):
        smallest(formula.ladder, 95.0, formula)


def test_the_best_artifact_within_bytes():
    formula = Formula(ladder())
    for limit in (40_000, 60_000, 100_000):
        best = largest(formula.ladder, limit, 8, formula)
        assert limit - 1_000 < best.bytes <= limit
        assert best.pictures.psnr is None, "sizes need no pictures"
        assert len(formula.tried) <= auto.TRIALS
        formula.tried.clear()
    everything = largest(formula.ladder, 10**9, 8, formula)
    assert everything.allotment == formula.ladder.at(len(formula.ladder))


def test_bytes_out_of_reach_say_what_was_reached():
    formula = Formula(ladder())
    with pytest.raises(
        LatentcError,
        match=r"30,000 bytes cannot be reached: the smallest artifact has 37,400 \(PSNR 40\.9 dB",
    ):
        largest(formula.ladder, 30_000, 8, formula)


def test_bytes_below_the_weights_alone_draw_no_graph(tmp_path, monkeypatch):
    tried: list[int] = []

    def built(trial, *_, **__):
        tried.append(trial.pictures)
        trial.out.mkdir()
        file = SimpleNamespace(size=37_400)
        return SimpleNamespace(manifest=SimpleNamespace(files=[file], pictures=(PictureEvidence(psnr=40.9),)))

    monkeypatch.setattr(auto.build, "compile", built)
    monkeypatch.setattr(auto, "sensitivities", lambda *_: {("unet", "w"): [Option("int4", 530, 0.1)]})
    with pytest.raises(LatentcError, match=r"500 bytes cannot be reached: the smallest artifact has 37,400"):
        auto.compile(request(tmp_path / "out", check="quick", pictures=8), Budget(max_bytes=500))
    assert tried == [8], "only the smallest is compiled, to say what was reached"


def test_what_a_graphs_error_does_to_the_picture_is_measured():
    """Two graphs of equal sensitivities, one moving the picture a hundred times as much; a third is not drawn."""
    worth = {"text_encoder": 100.0, "unet": 1.0, "vae_encoder": 0.0}
    options = {
        (folder, f"w{i}"): [
            Option("int4", 530, 0.01),
            Option("int8", 1_010, 0.0001),
            Option("none", 2_000, 0.0),
        ]
        for folder in worth
        for i in range(3)
    }

    def attempt(found: Allotment, prompts: int) -> Trial:
        error = sum(worth[folder] * option.error for (folder, _), option in found.chosen.items()) / 1000
        psnr = EQUAL if error == 0 else -10 * math.log10(error)
        return Trial(found, found.bytes, PictureEvidence(psnr=psnr))

    found = auto.rates(Ladder(options), 4, attempt)
    assert found == pytest.approx({"text_encoder": 0.1, "unet": 0.001, "vae_encoder": 0.1})
    # Room for three weights at int8: the text encoder's.
    chosen = Ladder({key: o for key, o in options.items() if key[0] != "vae_encoder"}, found).fill(
        3 * 530 + 3 * 1_010
    )
    assert chosen is not None
    assert {key[0] for key, option in chosen.chosen.items() if option.scheme == "int8"} == {"text_encoder"}


def test_pictures_that_were_not_drawn_are_no_good_ones():
    with pytest.raises(LatentcError, match="are not measured: it would take 16 minutes"):
        auto._drawn((PictureEvidence(reason="it would take 16 minutes"),))
    with pytest.raises(LatentcError, match="nothing to choose"):
        auto._drawn(())


def test_a_recipe_gives_each_weight_its_own():
    options = {
        ("unet", "a[0].weight"): [Option("int4:group=32,small=0", 1, 0.0)],
        ("unet", "b"): [Option("none", 1, 0.0)],
    }
    found = as_recipe(Ladder(options).at(0)).components["unet"]
    choice = Choice(found)
    from compiler.quantize.find import Layout

    layout = Layout("linear", (64, 64), 0)
    decision = choice.decide("a[0].weight", layout)
    assert decision is not None and (decision.name, decision.options.group, decision.options.small) == (
        "int4",
        32,
        0,
    )
    assert choice.decide("b", layout) is None and choice.decide("c", layout) is None


@pytest.mark.parametrize("budget", [Budget(), Budget(30.0, 100)])
def test_one_budget_is_wanted(budget, tmp_path):
    with pytest.raises(UsageError, match="needs one budget"):
        auto.compile(request(tmp_path / "out", check="quick"), budget)


def test_an_out_that_may_not_be_written_is_told_before_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "sensitivities", lambda *asked: pytest.fail("it has begun"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "out", tmp_path / "file" / "out"):
        with pytest.raises(UsageError, match=r"no latentc artifact|is a file, not a folder"):
            auto.compile(replace(request(out, check="quick"), pictures=4), Budget(30.0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]


def test_pictures_are_wanted(tmp_path):
    with pytest.raises(UsageError, match="judges by pictures"):
        auto.compile(request(tmp_path / "out"), Budget(30.0))


def test_sensitivities_are_what_the_output_says(tmp_path):
    """y = (x . w) . v where v shrinks half of w's channels: w's error counts for less than v's own."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 64)).astype(np.float32)
    v = rng.standard_normal((64, 64)).astype(np.float32)
    body = """(float[B,64] x, float[64,64] w, float[64,64] v) => (float[B,64] y) {
        h = MatMul(x, w)
        g = Add(x, h)
        y = MatMul(g, v)
    }"""
    model = bind(parse(body), tmp_path, w=w / 80, v=v)
    calls = [{"x": rng.standard_normal((5, 64)).astype(np.float32)} for _ in range(2)]
    choices = candidates(targets.get("onnxruntime").requirements)
    found = sensitivity.measure(model, "unet", calls, choices, silent)
    assert set(found.options) == {"w", "v"}
    by = {key: {o.scheme: o for o in options} for key, options in found.options.items()}
    # All of v's relative error reaches the output, about a hundredth of w's squared.
    plain = by["v"]["int4:group=64,small=0"]
    assert 0.005 < plain.error < 0.015
    assert by["w"]["int4:group=64,small=0"].error < plain.error / 20
    assert by["v"]["int8:small=0"].error < plain.error / 50 and by["v"]["none"] == Option("none", 8192, 0.0)
    assert "nf4:small=0" in by["v"]
    sensitivity.save(found, tmp_path / "cache" / "s.json")
    assert sensitivity.load(tmp_path / "cache" / "s.json") == found
    assert sensitivity.load(tmp_path / "none.json") is None
    assert {i.name for i in model.graph.inputs} == {"x"}


def test_sensitivities_of_what_is_not_finite_are_not_measured(tmp_path, monkeypatch):
    def measured(name: str, body: str) -> None:
        model = bind(parse(body), tmp_path, w=np.eye(64, dtype=np.float32))
        calls = [{"x": np.ones((5, 64), np.float32)}]
        choices = [("int4", scheme_table.options("int4", {"group": 64, "small": 0}))]
        sensitivity.measure(model, name, calls, choices, silent)

    product = "(float[B,64] x, float[64,64] w) => (float[B,64] y) { h = MatMul(x, w) n = Neg(h) y = "
    with pytest.raises(LatentcError, match="of 'unet' cannot be measured: its output 'y' is not finite"):
        measured("unet", product + "Log(n) }")
    monkeypatch.setattr(sensitivity, "_restored", lambda rows, decision: np.full_like(rows, np.nan))
    with pytest.raises(
        LatentcError, match="'w' cannot be measured: in int4:group=64,small=0 it makes outputs"
    ):
        measured("unet", product + "Abs(n) }")
