"""Pictures in tiles: what graphs are divided, how, and that what neighbours share is blended without a seam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from artifacts.errors import UsageError
from artifacts.manifest import DimRange, GraphRecord, TensorSpec
from runtimes.tiles import Tiling, division, layout, parse_tile, parts, run_in_tiles, scaling_of
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled

SIDES = DimRange(min=8, max=64)


def decoder(factor: int = 4, **changes: Any) -> GraphRecord:
    large = DimRange(min=8 * factor, max=64 * factor)
    dims = {
        "b": DimRange(min=1, max=4), "h": SIDES, "w": SIDES, "hh": large, "ww": large
    }  # fmt: skip
    graph = tiny.graph("decoder", [("z", "float32", ("b", 2, "h", "w"))], dims)
    outputs = (TensorSpec(name="sample", dtype="float32", shape=("b", 2, "hh", "ww")),)
    return graph.model_copy(update={"outputs": outputs, **changes})


def encoder(factor: int = 4) -> GraphRecord:
    graph = decoder(factor)
    ends = {"inputs": graph.outputs, "outputs": graph.inputs}
    return graph.model_copy(update=ends)


def enlarged(arrays: Any) -> dict[str, np.ndarray]:
    """A decoder of a picture that knows no neighbours: each cell four times along each side."""
    assert arrays["z"].flags.c_contiguous
    return {"sample": arrays["z"].repeat(4, axis=-1).repeat(4, axis=-2)}


def reduced(arrays: Any) -> dict[str, np.ndarray]:
    return {"z": arrays["sample"][..., ::4, ::4]}


@pytest.mark.parametrize("asked", [Tiling("on", 64), Tiling("on", 100, slices=True), Tiling(slices=True)])
@pytest.mark.parametrize("shape", [(3, 2, 41, 64), (1, 2, 16, 20), (2, 2, 8, 33)])
def test_tiles_make_the_whole_picture(asked: Tiling, shape: tuple[int, ...]) -> None:
    cells = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    picture = enlarged({"z": cells})["sample"]
    for graph, run, arrays, expected in (
        (decoder(), enlarged, {"z": cells}, picture),
        (encoder(), reduced, {"sample": picture}, cells),
    ):
        divided = division(graph, arrays, asked)
        if divided is None:
            assert asked.side is None or max(shape[-2:]) <= asked.side // 4
            continue
        (made,) = run_in_tiles(run, arrays, graph, *divided).values()
        np.testing.assert_allclose(made, expected, atol=1e-5)
        sizes = {part.arrays[divided[0].picture].shape for part in parts(arrays, graph, *divided)}
        assert len(sizes) <= 2, "one shape for all tiles, and one for the last of a batch"


def test_an_error_at_the_border_of_a_tile_is_blended_away() -> None:
    """A constant that differs from tile to tile becomes a ramp: no step is as large as the difference."""
    number = iter(range(100))

    def run(arrays: Any) -> dict[str, np.ndarray]:
        return {
            "sample": np.full(
                (1, 2, *(4 * side for side in arrays["z"].shape[-2:])), next(number), np.float32
            )
        }

    arrays = {"z": np.zeros((1, 2, 16, 64), np.float32)}
    divided = division(decoder(), arrays, Tiling("on", 64))
    assert divided is not None and len(divided[1].lefts) == 5
    (made,) = run_in_tiles(run, arrays, decoder(), *divided).values()
    assert np.abs(np.diff(made[0, 0, 0])).max() < 0.2


def test_larger_than_the_graph_takes_is_divided_unless_tiles_are_off() -> None:
    scaling = scaling_of(decoder())
    assert scaling is not None and (scaling.factor, scaling.enlarges) == (4, True)
    wide = layout(scaling, (64, 100), 1, Tiling())
    assert wide is not None and (wide.height, wide.width, wide.tops) == (64, 64, (0,))
    assert layout(scaling, (64, 100), 1, Tiling("off")) is None
    assert layout(scaling, (64, 64), 4, Tiling()) is None
    assert layout(scaling, (4, 100), 1, Tiling()) is None, "it is smaller than the graph takes"


def test_what_makes_no_picture_larger_or_smaller_is_not_divided() -> None:
    by_folder = {graph.folder: graph for graph in tiny.manifest().graphs}
    assert scaling_of(by_folder["unet"]) is None and scaling_of(by_folder["text_encoder"]) is None
    assert scaling_of(decoder(factor=1)) is None
    stretched = decoder(dims={**decoder().dims, "ww": DimRange(min=16, max=128)})
    assert scaling_of(stretched) is None, "its sides are not in one proportion"
    pixels = {"sample": np.zeros((1, 2, 64, 90), np.float32)}
    assert division(encoder(), pixels, Tiling("on", 64)) is None, "no whole number of cells"


@pytest.mark.parametrize("tile", ["", "many", "0", "-64", "1.5", "²", True, 10**7])
def test_what_is_no_tile(tile: Any) -> None:
    with pytest.raises(UsageError, match="a tile is auto, off or a number of pixels; found"):
        parse_tile(tile)


def test_tiles_are_parsed() -> None:
    assert parse_tile("auto") == Tiling() and parse_tile("OFF").mode == "off"
    assert parse_tile("512") == parse_tile(512) == Tiling("on", 512, slices=True)


def test_a_tile_smaller_than_its_overlap_is_refused() -> None:
    scaling = scaling_of(decoder())
    assert scaling is not None
    with pytest.raises(
        UsageError, match="at least 32 pixels for decoder, of which neighbours share 8; found 16"
    ):
        scaling.check(16)
    large = scaling_of(decoder(dims={**decoder().dims, **dict.fromkeys("hw", DimRange(min=32, max=64)),
                                     **dict.fromkeys(("hh", "ww"), DimRange(min=128, max=256))}))  # fmt: skip
    assert large is not None
    with pytest.raises(UsageError, match="compiled for at least 128 pixels; found a tile of 64"):
        large.check(64)


def sized(compiled: Compiled, low: int = 8) -> Any:
    """The tiny artifact's manifest, whose decoder and encoder tell what they make."""
    whole = compiled.manifest
    cells, pixels = DimRange(min=low, max=32), DimRange(min=2 * low, max=64)
    dims = {"b": DimRange(min=1, max=4), "h": cells, "w": cells, "hh": pixels, "ww": pixels}

    def tensor(name: str, channels: int) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=("b", channels, "h", "w"))

    pictures = TensorSpec(name="sample", dtype="float32", shape=("b", 3, "hh", "ww"))
    ends = {
        "vae_decoder": ((tensor("latent_sample", 4),), (pictures,)),
        "vae_encoder": ((pictures,), (tensor("latent_parameters", 8),)),
    }
    graphs = tuple(
        graph.model_copy(
            update={"inputs": ends[graph.folder][0], "outputs": ends[graph.folder][1], "dims": dims}
        )
        if graph.folder in ends
        else graph
        for graph in whole.graphs
    )
    return whole.model_copy(update={"graphs": graphs})


def test_diffusers_own_switches_turn_tiles_and_slices_on(compiled: Compiled) -> None:
    manifest = sized(compiled)
    pool = tiny.TorchGraphs(compiled.reference, manifest)
    vae = compiled.pipeline(pool=pool, manifest=manifest).diffusers.vae
    cells = torch.randn(2, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    whole = vae.decode(cells, return_dict=False)[0]
    shapes = lambda: [next(iter(arrays.values()))[1] for _, arrays in pool.calls]  # noqa: E731
    assert shapes() == [(2, 4, 24, 24)]
    for name, expected in (
        ("enable_slicing", [(1, 4, 24, 24)] * 2),
        ("enable_tiling", [(1, 4, 16, 16)] * 8),  # Tiles of 32 pixels, as the class's own configuration says.
        ("disable_slicing", [(2, 4, 16, 16)] * 4),
        ("disable_tiling", [(2, 4, 24, 24)]),
    ):
        pool.calls.clear()
        getattr(vae, name)()
        made = vae.decode(cells, return_dict=False)[0]
        assert shapes() == expected, name
        assert made.shape == whole.shape
        if expected[0][-1] == 24:
            torch.testing.assert_close(made, whole)
    assert vae.decode(torch.zeros(1, 4, 40, 24), return_dict=False)[0].shape == (1, 3, 80, 48), (
        "larger than compiled"
    )


def test_a_call_of_the_pipeline_takes_a_tile(compiled: Compiled) -> None:
    manifest = sized(compiled)
    pool = tiny.TorchGraphs(compiled.reference, manifest)
    pipe = compiled.pipeline(pool=pool, manifest=manifest)
    options = {"steps": 1, "seed": 1, "size": (48, 48)}
    counts = []
    for tile in (None, 32, "off", 48):
        pool.calls.clear()
        picture = pipe.generate("a", tile=tile, **options).images[0]
        assert picture.size == (48, 48)
        counts.append(sum(graph == "vae_decoder" for graph, _ in pool.calls))
    assert counts == [1, 4, 1, 1]
    pool.calls.clear()
    pipe("a", height=48, width=48, num_inference_steps=1, tile="32")
    assert sum(graph == "vae_decoder" for graph, _ in pool.calls) == 4
    with pytest.raises(UsageError, match="at least 16 pixels for vae_decoder"):
        pipe.generate("a", tile=8, **options)
    with pytest.raises(UsageError, match="auto, off or a number"):
        pipe.generate("a", tile="large", **options)
