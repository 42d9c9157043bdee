"""The golden files themselves; `make golden` exports the models anew and compares."""

from __future__ import annotations

import pytest

from bench.full_size.golden import FOLDER, GOLDEN
from compiler.snapshot.check import read
from compiler.snapshot.take import Options

FILES = sorted(FOLDER.glob("*.graph"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_golden_file_is_canonical_and_of_its_entry(file):
    snapshot = read(file)
    assert snapshot.text() == file.read_text(encoding="utf-8")
    assert Options.parse(snapshot.options) == GOLDEN[file.stem].options()
    assert len({graph.form for graph in snapshot.graphs}) > 1


def test_the_flops_and_parameters_of_sdxl_are_the_published_ones():
    # DistriFusion, table of 50 steps with guidance at 1024x1024: 338 T multiply-accumulates.
    (graph,) = [g for g in read(FOLDER / "sdxl.graph").graphs if (g.name, g.form) == ("unet", "fp32")]
    calls = 2 * 50 / graph.sizes["batch"]
    assert graph.cost.flops * calls / 2 == pytest.approx(338e12, rel=0.02)
    assert graph.cost.parameters == 2_567_463_684
