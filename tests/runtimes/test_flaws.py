"""What is wrong with pictures: found where they are made, told with its cause, and looked for outside of the loop."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtimes import flaws
from runtimes.meter import NotFinite
from runtimes.result import Result
from targets.graph import finite
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled

Change = Callable[[np.ndarray], np.ndarray]


class Changed(tiny.TorchGraphs):
    """Graphs some of whose outputs are changed; `calls` picks the calls of a graph, counted from 0."""

    def __init__(
        self, compiled: Compiled, changes: Mapping[str, Change], calls: set[int] | None = None
    ) -> None:
        super().__init__(compiled.reference, compiled.manifest)
        self.changes = changes
        self.wanted = calls

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = super().run(graph, inputs)
        number = sum(call[0] == graph for call in self.calls) - 1
        if graph in self.changes and (self.wanted is None or number in self.wanted):
            return {name: self.changes[graph](array) for name, array in outputs.items()}
        return outputs


def nan(array: np.ndarray) -> np.ndarray:
    return np.full_like(array, np.nan)


def draw(compiled: Compiled, pool: Any = None, **options: Any) -> Result:
    given = {"seed": 5, "steps": 2, "size": "32x32"} | options
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return compiled.pipeline(pool=pool).generate("a red circle", **given)


def test_a_good_picture_has_none(compiled: Compiled) -> None:
    assert draw(compiled).flaws == ()


def test_a_decoder_that_overflows(compiled: Compiled) -> None:
    (flaw,) = draw(compiled, Changed(compiled, {"vae_decoder": nan})).flaws
    assert (flaw.kind, flaw.images, flaw.method) == ("not finite", (0,), "vae.decode")
    assert flaw.message == "'vae.decode' returned numbers that are not finite; the picture is black."


def test_a_part_of_a_picture_that_is_not_finite(compiled: Compiled) -> None:
    def one_pixel(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed[0, 0, 3, 4] = np.inf
        return changed

    (flaw,) = draw(compiled, Changed(compiled, {"vae_decoder": one_pixel})).flaws
    assert (flaw.kind, flaw.images) == ("not finite", ())
    assert flaw.message == "'vae.decode' returned numbers that are not finite."


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        ("unet", "as what it was given was not finite; the picture"),
        ("text_encoder", "not finite: 'text_encoder.forward' was the first to return such; the picture"),
    ],
)
def test_who_was_the_first(compiled: Compiled, graph: str, said: str) -> None:
    (flaw,) = draw(compiled, Changed(compiled, {graph: nan})).flaws
    assert flaw.kind == "not finite" and said in flaw.message


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [(-1.0, "black", "the picture is black."), (0.25, "one colour", "the picture is of one colour.")],
)
def test_pictures_of_one_colour(compiled: Compiled, value: float, kind: str, said: str) -> None:
    (flaw,) = draw(compiled, Changed(compiled, {"vae_decoder": lambda a: np.full_like(a, value)})).flaws
    assert (flaw.kind, flaw.images, flaw.method, flaw.message) == (kind, (0,), "", said)
    assert flaw.hint.startswith("Where that is not what was asked for, ")


def test_one_of_several(compiled: Compiled) -> None:
    def second(array: np.ndarray) -> np.ndarray:
        return np.stack([array[0], np.full_like(array[1], -1)])

    (flaw,) = draw(compiled, Changed(compiled, {"vae_decoder": second}), images=2).flaws
    assert (flaw.kind, flaw.images, flaw.message) == ("black", (1,), "1 of 2 pictures are black.")


def test_of_several_calls_of_the_pipeline_each_counts(compiled: Compiled) -> None:
    narrow = tiny.manifest(batch=1)
    pool = Changed(compiled, {"vae_decoder": nan}, calls={0})
    result = compiled.pipeline(pool=pool, manifest=narrow).generate(
        "a", seed=5, steps=1, size="32x32", images=2
    )
    (flaw,) = result.flaws
    assert (flaw.kind, flaw.images) == ("not finite", (0,))
    assert flaw.message.endswith("1 of 2 pictures are black.")


def test_nothing_is_looked_at_in_the_loop(compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(finite, "all_finite", lambda array: looks.append(1) or True)
    draw(compiled, steps=1)
    once = len(looks)
    draw(compiled, steps=6)
    assert 0 < once == len(looks) - once


def found(
    count: int, images: list[Image.Image], outputs: Mapping[str, Any] | None = None, **changes: Any
) -> Any:
    manifest = tiny.manifest().model_copy(update=changes)
    return flaws.find(images, count, (), outputs or {}, manifest, Path("out"), {})


BLACK, GREY = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (9, 9, 9))


def test_a_video_is_of_one_colour_when_all_of_it_is() -> None:
    drawn = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    assert found(1, [BLACK, drawn]) == ()
    (flaw,) = found(2, [BLACK, drawn, BLACK, BLACK])
    assert (flaw.kind, flaw.images) == ("black", (2, 3))
    (flaw,) = found(1, [BLACK, GREY])
    assert (flaw.kind, flaw.images) == ("one colour", (0, 1))


def test_a_safety_checker_says_so_itself() -> None:
    (flaw,) = found(1, [BLACK], {"nsfw_content_detected": [True]})
    assert "safety checker" in flaw.hint
    (flaw,) = found(1, [BLACK], {"nsfw_content_detected": [False]})
    assert "safety checker" not in flaw.hint
    (flaw,) = found(1, [BLACK], {"nsfw_content_detected": None})
    assert "safety checker" not in flaw.hint


@pytest.mark.parametrize(
    ("computed", "target", "hint"),
    [
        ("fp16", "openvino", "overflows fp16, .* Draw it in fp32: --compute fp32"),
        ("fp16", "tensorrt", "latentc compile tiny OUT --target tensorrt --precision bf16"),
        ("fp16", "directml", "--target directml --precision fp32"),
        ("fp16", "not-here", "--target not-here --precision fp32"),
        ("bf16", "openvino", "latentc verify out --numerics"),
        ("fp32", "openvino", "latentc verify out --numerics"),
    ],
)
def test_the_next_command(computed: str, target: str, hint: str) -> None:
    manifest = tiny.manifest()
    source = manifest.source.model_copy(update={"id": "tiny"})
    manifest = manifest.model_copy(update={"target": target, "source": source})
    computes = {graph.folder: computed for graph in manifest.graphs}
    for broken in ((), (NotFinite("vae.decode", True, ""),)):
        (flaw,) = flaws.find([BLACK], 1, broken, {}, manifest, Path("out"), computes)
        assert re.search(hint, flaw.hint), flaw.hint


def test_the_cause_is_of_the_graph_that_went_wrong() -> None:
    manifest = tiny.manifest()
    computes = {graph.folder: "fp32" for graph in manifest.graphs} | {"unet": "fp16"}
    (flaw,) = flaws.find([], 0, [NotFinite("vae.decode", True, "")], {}, manifest, Path("out"), computes)
    assert "overflows" not in flaw.hint
    (flaw,) = flaws.find([], 0, [NotFinite("unet.forward", True, "")], {}, manifest, Path("out"), computes)
    assert "overflows" in flaw.hint


def test_what_a_picture_shows() -> None:
    drawn = np.linspace(0, 1, 48).reshape(4, 4, 3)
    assert flaws.shown(drawn) is None
    assert flaws.shown((drawn * 255).astype(np.uint8)) is None
    assert flaws.shown(np.where(drawn > 0.9, np.nan, drawn)) == "not finite"
    assert flaws.shown(drawn * 2 / 255) == "black"
    assert flaws.shown(np.full((4, 4, 3), 2, np.uint8)) == "black"
    assert flaws.shown(0.5 + drawn / 1000) == "one colour"
    assert flaws.shown(np.full((1, 1, 3), 0.5)) is None


def overflowed(colours: int) -> np.ndarray:
    """A picture of 16x16 whose channels are cut off at both ends: of 2 or of up to 8 colours."""
    values = np.random.default_rng(0).standard_normal((16, 16, 1 if colours == 2 else 3)) * 1e30
    return np.broadcast_to(np.clip(values, 0, 1), (16, 16, 3)).astype(np.float64)


@pytest.mark.parametrize("colours", [2, 8])
def test_pictures_that_are_cut_off(colours: int) -> None:
    cut = overflowed(colours)
    assert flaws.shown(cut) == flaws.shown((cut * 255).astype(np.uint8)) == "saturated"
    (flaw,) = found(1, [Image.fromarray((cut * 255).astype(np.uint8))])
    assert (flaw.kind, flaw.message) == ("saturated", "the picture is cut off at both ends of its colours.")
    assert flaw.hint.startswith("Where that is not what was asked for, ")
    edged = cut.copy()
    edged[3, 4] = 0.5
    assert flaws.shown(edged) is None and found(1, [Image.fromarray((edged * 255).astype(np.uint8))]) == ()


def test_masks_and_one_constant_channel_are_no_flaw() -> None:
    mask = Image.fromarray(overflowed(2)[:, :, 0] > 0.5)
    assert mask.mode == "1" and found(1, [mask]) == ()
    drawn = np.random.default_rng(0).random((16, 16, 3))
    drawn[:, :, 0] = 0
    assert flaws.shown(drawn) is None
    assert found(1, [Image.fromarray((drawn * 255).astype(np.uint8))]) == ()


def test_a_decoder_whose_numbers_overflow_and_are_cut_off(compiled: Compiled) -> None:
    (flaw,) = draw(compiled, Changed(compiled, {"vae_decoder": lambda a: np.sign(a) * 1e30})).flaws
    assert (flaw.kind, flaw.images) == ("saturated", (0,))


def test_one_picture_of_a_batch_that_is_not_finite(compiled: Compiled) -> None:
    def second(array: np.ndarray) -> np.ndarray:
        return np.stack([array[0], np.full_like(array[1], np.nan)])

    (flaw,) = draw(compiled, Changed(compiled, {"vae_decoder": second}), images=2).flaws
    assert (flaw.kind, flaw.images) == ("not finite", (1,))


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "F"])
def test_pictures_of_other_modes(mode: str) -> None:
    (flaw,) = found(1, [Image.new(mode, (4, 4))])
    assert flaw.kind == "black"
    depths = Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4))
    assert found(1, [depths]) == ()
