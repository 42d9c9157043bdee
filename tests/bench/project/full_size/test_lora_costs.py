"""What a LoRA adds to a compile, told from compiles that ran in turn."""

from __future__ import annotations

import pytest

from bench.project.full_size.compile_costs import Figure
from bench.project.full_size.lora_costs import costs


def figures(*seconds: float, status: int = 0) -> list[Figure]:
    return [Figure("a compile", 1536, status, value, value, 1500, 1400, {}) for value in seconds]


def test_it_is_the_median_of_pairs():
    time, memory = costs(figures(20.0, 30.0, 40.0), figures(21.0, 45.0, 42.0))
    assert time.measured == "1.05 (1.05 to 1.50)"
    assert time.holds is True
    assert memory.measured == "1.00 (1.00 to 1.00)"
    assert costs(figures(20.0), figures(23.0))[0].holds is False


@pytest.mark.parametrize(
    "merged", [figures(21.0, status=1), [Figure("", None, 0, 21.0, None, None, None, {})]]
)
def test_a_compile_that_failed_or_was_not_measured_is_no_figure(merged):
    assert {(claim.measured, claim.holds) for claim in costs(figures(20.0), merged)} == {
        ("not measured", None)
    }
