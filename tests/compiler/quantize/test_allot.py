"""Bits under a budget: the list of steps is the best that can be done, and budgets are places in it."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.quantize.allot import Ladder, Option, hull

OPTIONS = st.lists(
    st.builds(Option, st.just("s"), st.integers(1, 50), st.integers(0, 100).map(float)),
    min_size=1,
    max_size=4,
)


def test_the_hull_leaves_out_what_no_price_buys():
    options = [
        Option("a", 10, 100),
        Option("b", 20, 90),
        Option("c", 30, 10),
        Option("d", 40, 10),
        Option("e", 50, 0),
    ]
    assert [o.scheme for o in hull(options)] == ["a", "c", "e"]


@settings(max_examples=100, deadline=None)
@given(st.lists(OPTIONS, min_size=1, max_size=4))
def test_no_choice_of_the_same_size_is_better(weights):
    ladder = Ladder({("unet", str(i)): options for i, options in enumerate(weights)})
    totals = [
        (sum(o.bytes for o in choice), sum(o.error for o in choice)) for choice in itertools.product(*weights)
    ]
    for count in range(len(ladder) + 1):
        found = ladder.at(count)
        assert min(error for size, error in totals if size <= found.bytes) == found.error
    gains = [step.gain for step in ladder.steps]
    assert gains == sorted(gains, reverse=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(OPTIONS, min_size=1, max_size=4), st.integers(0, 220))
def test_a_budget_is_filled(weights, budget):
    ladder = Ladder({("unet", str(i)): options for i, options in enumerate(weights)})
    found = ladder.fill(budget)
    if found is None:
        assert ladder.at(0).bytes > budget
    else:
        assert found.bytes <= budget
        # No prefix of the steps that fits is better, and no next step of any weight fits any more.
        fitting = [one for n in range(len(ladder) + 1) if (one := ladder.at(n)).bytes <= budget]
        assert found.error <= fitting[-1].error
        for key, option in found.chosen.items():
            more = [s.new.bytes - s.old.bytes for s in ladder.steps if s.key == key and s.old == option]
            assert all(found.bytes + one > budget for one in more)
    fewest = ladder.down_to(float(budget))
    assert ladder.at(fewest).error <= budget or fewest == len(ladder)
    assert fewest == 0 or ladder.at(fewest - 1).error > budget
