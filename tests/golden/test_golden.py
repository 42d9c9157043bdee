"""The golden files themselves; `make golden` exports the models anew and compares."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import pytest

from bench.project.full_size.golden import FOLDER, GOLDEN
from compiler.snapshot.golden_snapshot import read
from compiler.snapshot.take import SnapshotOptions

FILES = sorted(FOLDER.glob("*.graph"))
IN_TESTS = [name for name, entry in GOLDEN.items() if entry.in_tests]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_golden_file_is_canonical_and_of_its_entry(file):
    snapshot = read(file)
    assert snapshot.text() == file.read_text(encoding="utf-8")
    assert SnapshotOptions.parse(snapshot.options) == GOLDEN[file.stem].options()
    assert len({graph.form for graph in snapshot.graphs}) > 1


def test_the_flops_and_parameters_of_sdxl_are_the_published_ones():
    # DistriFusion, table of 50 steps with guidance at 1024x1024: 338 T multiply-accumulates.
    (graph,) = [g for g in read(FOLDER / "sdxl.graph").graphs if (g.name, g.form) == ("unet", "fp32")]
    calls = 2 * 50 / graph.sizes["batch"]
    assert graph.cost.flops * calls / 2 == pytest.approx(338e12, rel=0.02)
    assert graph.cost.parameters == 2_567_463_684


def test_the_flops_and_parameters_of_sd15_are_the_published_ones():
    # BK-SDM's count for Stable Diffusion 1.4 at 512x512 (github.com/Nota-NetsPresso/BK-SDM, issue 53): convolutions
    # and linear layers alone, so the products of attention are added here: 2 * queries * keys * width for each.
    def attention(*layers):
        return sum(2 * count * queries * keys * width for count, queries, keys, width in layers)

    levels = ((5, 64**2, 320), (5, 32**2, 640), (5, 16**2, 1280), (1, 8**2, 1280))
    looks = [(n, q, keys, width) for n, q, width in levels for keys in (q, 77)]
    published = {
        "text_encoder": (6_545_882_112 + attention((12, 77, 77, 768)), 123_060_480),
        "unet": (338_749_194_240 + attention(*looks), 859_520_964),
        "vae_decoder": (1_240_079_532_032 + attention((1, 64**2, 64**2, 512)), 49_490_179),
    }
    graphs = {graph.name: graph for graph in read(FOLDER / "sd15.graph").graphs if graph.form == "fp32"}
    for name, (products, parameters) in published.items():
        graph = graphs[name]
        assert graph.cost.flops / 2 / graph.sizes["batch"] == pytest.approx(products, rel=0.02), name
        assert graph.cost.parameters == pytest.approx(parameters, rel=1e-6), name


def test_the_flops_and_parameters_of_flux_are_the_published_ones():
    # TaylorSeer (arXiv:2503.06923), table of FLUX.1-dev: 3719.50 T for 50 steps at 1024x1024 without guidance's second
    # batch; two for each multiply-accumulate. 11.9 billion parameters by its model card.
    (graph,) = [g for g in read(FOLDER / "flux.graph").graphs if (g.name, g.form) == ("transformer", "fp32")]
    assert graph.cost.flops * 50 / graph.sizes["batch"] == pytest.approx(3719.50e12, rel=0.02)
    assert graph.cost.parameters == pytest.approx(11.9e9, rel=0.001)


def kinds(names: Iterable[str]) -> set[tuple[str, str]]:
    """The patterns that the golden files of these models have, and the rewrites that changed something."""
    graphs = [graph for name in names for graph in read(FOLDER / f"{name}.graph").graphs]
    return {("pattern", name) for graph in graphs for name in graph.patterns} | {
        ("rewrite", name) for graph in graphs for name in graph.rewrites
    }


def test_models_that_tests_export_have_every_pattern_and_every_rewrite():
    assert kinds(IN_TESTS) == kinds(GOLDEN) != kinds(["sd15"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_models_still_have_these_graphs():
    """What `make golden` does of all models, of some that have the others' kinds of blocks."""
    command = [sys.executable, "-m", "bench.project.full_size.golden", *IN_TESTS]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("no change") == len(IN_TESTS)
