"""Words and their stems: the one analysis behind both BM25s and the coverage of a question."""

from __future__ import annotations

import functools
import re
from typing import Any

WORD = re.compile(r"\w+(?:['’]\w+)*")
STOPWORDS = frozenset(
    """
    a about above after again all also am an and any anybody anyone anything are aren't as at be because
    been before being below between both but by can can't cannot could couldn't did didn't do does
    doesn't doing don't down during each either else ever every few for from further get gets give given
    go goes going got had has hasn't have haven't having he her here hers him his how however i i'd i'll
    i'm i've if in into is isn't it it's its just let like make may me might mine more most much must my
    myself need needs no nor not of off often on once one only or other ought our ours out over own per
    please possible same say says shall she should so some somebody someone something still such take
    takes tell than that that's the their theirs them then there these they thing things this those
    through to too under until up upon us use used very want wants was way we were what what's when
    where which while who whom whose why will with within without won't would yet you your yours
    """.split()  # noqa: SIM905
)


@functools.cache
def stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")


@functools.lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    return stemmer().stemWord(word)


def analyze(text: str) -> list[str]:
    """Stems of the words that carry meaning: the one analysis behind both BM25s and the coverage."""
    words = (word.replace("’", "'") for word in WORD.findall(text.lower()))
    return [stem(word.removesuffix("'s")) for word in words if word not in STOPWORDS]


def analyze_all(text: str) -> list[str]:
    """Stems with the stopwords, for a query that has nothing else."""
    return [stem(word) for word in WORD.findall(text.lower())]
