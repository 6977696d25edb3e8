"""F1 of the words shared by output and expected text, as SQuAD scores answers (Rajpurkar et al. 2016).

Lower-cased, without punctuation and articles; of a list of expected texts the best match counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast


def score(expected: object, output_text: str, row: Mapping[str, Any]) -> float:
    wanted = cast("list[object]", expected) if isinstance(expected, list) else [expected]
    return max((_f1(_words(str(text)), _words(output_text)) for text in wanted), default=0.0)


def _words(text: str) -> Counter[str]:
    plain = re.sub(r"[^\w\s]", "", text.casefold())
    return Counter(word for word in plain.split() if word not in ("a", "an", "the"))


def _f1(wanted: Counter[str], given: Counter[str]) -> float:
    if not wanted or not given:
        return float(wanted == given)
    shared = (wanted & given).total()
    return 2 * shared / (wanted.total() + given.total())
