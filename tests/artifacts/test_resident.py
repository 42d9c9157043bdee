"""What a process frees is the system's again."""

import subprocess
import sys

import pytest

HELD = """
import sys
import numpy as np
from artifacts.resident import resident, return_weights_at_once

if sys.argv[1] == "at once":
    return_weights_at_once()
block = 12 << 20
np.ones(block, np.uint8)  # Its end moves the limit above which the allocator maps blocks one by one.
before = resident().anonymous
weights, between = [], []
for _ in range(20):
    weights.append(np.ones(block, np.uint8))
    between.append(np.ones(100_000, np.uint8))
weights.clear()
print((resident().anonymous - before) // block)
"""


def held(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", HELD, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only GNU's allocator is asked")
def test_weights_that_were_freed_are_not_kept() -> None:
    assert held("at once") <= 1
    if held("as it is") <= 1:
        pytest.skip("this allocator keeps nothing anyway")
