"""Which tools a goal needs: ranked by BM25 over their names, titles and descriptions. Pure; asks no model.

Not covered: words that mean the same. A model that misses a tool asks `find_tools`, which shows it more.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from agentd.sdk import Tool

__all__ = ["MOST", "ranked"]

MOST = 12
"""So many tools are shown: models choose worse among more than about 25, and small ones sooner."""
_K1, _B = 1.5, 0.75
_STOP = frozenset(
    """a an and are as at be by can do for from has have how i if in into is it its let make me my new no not
    of on one or our out please so that the their them then there this to up use want was what when which who
    will with without you your""".split()  # noqa: SIM905
)


def ranked(text: str, tools: Mapping[str, Tool], most: int = MOST) -> list[str]:
    """Names of the tools nearest to `text`, best first; all of them, in their order, where few are there.

    One that `text` names comes first. Ties keep the order of the names.
    """
    if len(tools) <= most:
        return list(tools)
    documents = {name: Counter(_words(_document(tool))) for name, tool in tools.items()}
    average = sum(sum(each.values()) for each in documents.values()) / len(documents)
    asked = Counter(_words(text))
    rarity = {
        word: math.log(1 + (len(documents) - found + 0.5) / (found + 0.5))
        for word in asked
        if (found := sum(word in each for each in documents.values()))
    }

    def score(name: str) -> float:
        words = documents[name]
        length = _K1 * (1 - _B + _B * sum(words.values()) / average)
        bm25 = sum(idf * words[word] * (_K1 + 1) / (words[word] + length) for word, idf in rarity.items())
        return bm25 + (1000 if re.search(rf"\b{re.escape(name)}\b", text) else 0)

    return sorted(tools, key=lambda name: (-score(name), name))[:most]


def _document(tool: Tool) -> str:
    fields = (f"{name} {field.description or ''}" for name, field in tool.arguments.model_fields.items())
    return " ".join([tool.name, tool.name, tool.title, tool.title, tool.description, *fields])


def _words(text: str) -> Sequence[str]:
    """Words without their commonest endings: "quantized" and "quantize" are one."""
    found = re.findall(r"[a-z0-9]+", text.lower().replace("fine-tun", "finetun"))
    return [
        re.sub(r"(?:ing|ed|es|e|s|er|ion)$", "", word) if len(word) > 4 else word
        for word in found
        if word not in _STOP
    ]
