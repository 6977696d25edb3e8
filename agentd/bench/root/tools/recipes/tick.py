# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Say when it has started, on the clock that all processes share.

python -P tick.py SPEC OUT
"""

import time

STARTED = time.clock_gettime(time.CLOCK_MONOTONIC)

import os  # noqa: E402 - the first thing it does is to look at the clock
import sys  # noqa: E402

waiting = os.path.join(sys.argv[2], "result.part")  # noqa: PTH118 - no more imports than it takes
with open(waiting, "w", encoding="ascii") as file:  # noqa: PTH123
    file.write(f'{{"started": {STARTED}}}')
os.replace(waiting, os.path.join(sys.argv[2], "result.json"))  # noqa: PTH105,PTH118
