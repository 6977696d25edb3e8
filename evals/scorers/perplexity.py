"""How likely the model finds the expected text: the geometric mean of its tokens' probabilities.

Nothing is generated for it: the endpoint is asked for the log-probabilities of prompt and expected
text (vLLM's ``prompt_logprobs``). Over all rows: perplexity a token, which is 1 / that mean over all
tokens. Perplexities compare only between models with one tokenizer; `bits_per_byte` does between all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

WANTS = ("likelihood",)


def score(expected: object, output_text: str, row: Mapping[str, Any]) -> float:
    if "likelihood" not in row:
        raise ValueError(row.get("likelihood_error", "nobody asked how likely the expected text is"))
    return math.exp(row["likelihood"]["logprob"] / row["likelihood"]["tokens"])


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    logprob = sum(row["likelihood"]["logprob"] for row in rows)
    tokens = sum(row["likelihood"]["tokens"] for row in rows)
    size = sum(len(str(row["expected"]).encode()) for row in rows)
    return {"perplexity": math.exp(-logprob / tokens), "bits_per_byte": -logprob / math.log(2) / size}
