"""tools/review.py, decisions.py and agreement.py: who sees what, what holds, what is published."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.context import Context
from agentd.daemon import Daemon
from agentd.errors import DataError, Denied, InputError
from agentd.plugins import Plugins, bundled_root
from agentd.policy.callers import Caller
from agentd.sdk import Judgement
from tests.conftest import load_recipe
from tests.tools.conftest import OpenDaemon, call

plugins = Plugins((bundled_root(),))
agreement, decisions = plugins.module("tools", "agreement"), plugins.module("tools", "decisions")
datasets = plugins.module("tools", "datasets")


def row(number: int, answer: str = "yes") -> dict[str, Any]:
    said = {
        "prompt": [{"role": "user", "content": f"question {number}"}],
        "completion": [{"role": "assistant", "content": answer}],
    }
    return {"id": datasets.row_id(said), **said, "origin": f"a.jsonl:{number}"}


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- agreement ------------------------------------------------------------------------------

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", C: nominal alpha is .743.
FOUR_OBSERVERS = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def test_alpha_is_that_of_the_published_example() -> None:
    columns = zip(*(line.split() for line in FOUR_OBSERVERS.strip().splitlines()), strict=True)
    items = [[value for value in column if value != "."] for column in columns]
    assert round(agreement.alpha(items), 3) == 0.743
    low, high = agreement.interval(items)
    assert low < 0.743 < high


@pytest.mark.parametrize(
    ("items", "value"),
    [
        ([["a", "a"], ["b", "b"]], 1.0),
        ([["a", "b"], ["b", "a"]], -0.5),
        ([["a", "a"], ["a", "a"]], None),
        ([["a"], ["b"]], None),
        ([], None),
    ],
)
def test_alpha_is_one_for_agreement_below_zero_for_contradiction_and_else_undefined(
    items: list[list[str]], value: float | None
) -> None:
    assert agreement.alpha(items) == value
    assert (agreement.interval(items) is None) == (value is None)


# --- decisions ------------------------------------------------------------------------------


def said(
    item: str, author: str, verdict: str, value: dict[str, Any] | None = None, at: float = 0.0
) -> Judgement:
    return Judgement(
        subject="dataset:x", item=item, author=author, principal="p", verdict=verdict, value=value, at=at
    )


@given(st.sets(st.text(min_size=1), max_size=40), st.floats(0, 1))
def test_the_shared_rows_are_the_same_for_everybody_and_the_rest_is_seen_once(
    rows: set[str], overlap: float
) -> None:
    decided: list[Judgement] = []
    for reviewer in ("ann", "bob"):
        seen = decisions.queue("x", rows, decisions.by_row(decided), reviewer, overlap)
        decided += [said(item, reviewer, "accept") for item in seen]
    by_row = decisions.by_row(decided)
    assert by_row.keys() == rows
    shared = {item for item in rows if decisions.place("x", item) < overlap}
    assert {item for item, judged in by_row.items() if len(judged) == 2} == shared


def test_most_votes_hold_and_a_tie_holds_nothing() -> None:
    def holding(*verdicts: str) -> str | None:
        judged = [said("r", str(n), verdict) for n, verdict in enumerate(verdicts)]
        return getattr(decisions.held(judged), "verdict", None)

    assert holding("accept", "reject", "accept") == "accept"
    assert holding("accept", "reject") is None
    assert holding("fix") == "fix"
    assert holding() is None


def test_the_same_words_are_the_same_row_as_the_recipe_says() -> None:
    recipe = load_recipe(bundled_root() / "tools/recipes/prepare_data")
    words = {
        "completion": [{"role": "assistant", "content": "b"}],
        "prompt": [{"role": "user", "content": "ä"}],
    }
    assert datasets.row_id({"label": "x", **words}) == recipe.rows.row_id(words)


# --- tools ----------------------------------------------------------------------------------


@pytest.fixture
def daemon(open_daemon: OpenDaemon, tmp_path: Path) -> Daemon:
    daemon = open_daemon()
    for name, split, numbers in (("talk", "train", range(8)), ("talk-test", "test", range(8, 10))):
        folder = tmp_path / name
        write_lines(folder / "data.jsonl", [row(n) for n in numbers])
        (folder / "README.md").write_text(f"# {name}\n", encoding="utf-8")
        meta = {"family": "talk", "split": split, "rows": len(numbers), "tokens_median": 3}
        daemon.artifacts.add("dataset", folder, name=name, meta=meta)
    return daemon


class As:
    """Calls tools as somebody."""

    def __init__(self, daemon: Daemon, folder: Path, principal: str = "user:ann") -> None:
        self.ctx: Context = daemon.calls.context(Caller(principal, "operate", "cli", folder, is_agent=False))

    def __call__(self, tool: str, **arguments: Any) -> Any:
        return call(self.ctx, tool, **arguments)


@pytest.fixture
def ann(daemon: Daemon, tmp_path: Path) -> As:
    return As(daemon, tmp_path)


def test_rows_of_all_splits_are_accepted_mended_and_rejected_and_become_versions(ann: As) -> None:
    waiting = ann("review_rows", dataset="talk")
    assert (waiting.reviewer, waiting.waiting, waiting.decided) == ("user:ann", 10, 0)
    assert {each["split"] for each in waiting.rows} == {"train", "test"}
    first, second = row(0), row(1)
    verdicts = [
        {"id": first["id"], "verdict": "reject", "note": "off topic"},
        {"id": second["id"], "verdict": "fix", "completion": "better"},
        *({"id": row(n)["id"], "verdict": "accept"} for n in (2, 8)),
    ]
    assert ann("review_decide", dataset="talk", decisions=verdicts).waiting == 6
    told = ann("publish_dataset", dataset="talk")
    assert (told.rows, told.pairs) == ({"train": 2, "test": 1}, 1)
    assert (told.review.accepted, told.review.fixed, told.review.rejected, told.review.unreviewed) == (
        2,
        1,
        1,
        6,
    )
    version = ann.ctx.artifacts.get("talk", "dataset")
    rows = [each for _, each in datasets.read_rows(version.path / "data.jsonl")]
    mended, accepted = (
        next(each for each in rows if each["review"] == kind) for kind in ("fixed", "accepted")
    )
    assert (mended["completion"][0]["content"], mended["rejected"], mended["prompt"]) == (
        "better",
        "yes",
        second["prompt"],
    )
    assert mended["id"] == datasets.row_id(mended) != second["id"]
    assert accepted == row(2) | {"review": "accepted", "rejected": None}
    assert version.parents == (
        next(a.id for a in ann.ctx.artifacts.list("dataset") if a.meta.get("rows") == 8),
    )
    assert "tokens_median" not in version.meta
    assert "1 mended" in (version.path / "README.md").read_text(encoding="utf-8")
    assert ann("review_rows", dataset="talk").waiting == 0, (
        "what was accepted and mended needs no second look"
    )


def test_unreviewed_rows_can_be_kept_and_disputed_ones_never_are(ann: As) -> None:
    item = row(3)["id"]
    for who, verdict in (("bob", "accept"), ("eve", "reject")):
        ann("review_decide", dataset="talk", reviewer=who, decisions=[{"id": item, "verdict": verdict}])
    shown = ann("show_dataset", dataset="talk").review
    assert (shown.disputed, shown.judged_twice, shown.reviewers) == (1, 1, {"bob": 1, "eve": 1})
    with pytest.raises(InputError, match="No row of 'talk' was accepted yet"):
        ann("publish_dataset", dataset="talk")
    assert ann("publish_dataset", dataset="talk", unreviewed="keep").rows == {"train": 7, "test": 2}


def test_a_decision_can_be_changed_and_undone(ann: As) -> None:
    item = row(3)["id"]
    for verdict in ("accept", "reject"):
        ann("review_decide", dataset="talk", decisions=[{"id": item, "verdict": verdict}])
    assert ann("show_dataset", dataset="talk").review.rejected == 1
    assert ann("review_decide", dataset="talk", decisions=[{"id": item, "verdict": "undo"}]).undone == 1
    assert ann("show_dataset", dataset="talk").review.unreviewed == 10


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        ({"id": "none", "verdict": "accept"}, "has no row 'none'"),
        ({"id": row(3)["id"], "verdict": "fix"}, "without a change"),
        ({"id": row(3)["id"], "verdict": "fix", "completion": "yes"}, "without a change"),
        ({"id": row(3)["id"], "verdict": "fix", "completion": " "}, "is empty"),
        ({"id": row(3)["id"], "verdict": "fix", "prompt": [{"role": "me", "content": "x"}]}, "'me'"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused_and_nothing_is_kept(
    ann: As, decision: dict[str, Any], says: str
) -> None:
    good = {"id": row(2)["id"], "verdict": "accept"}
    with pytest.raises((InputError, DataError), match=says):
        ann("review_decide", dataset="talk", decisions=[good, decision])
    assert ann("show_dataset", dataset="talk").review.unreviewed == 10


def test_an_agent_does_not_review(daemon: Daemon, tmp_path: Path) -> None:
    agent = As(daemon, tmp_path, "agent:robot")
    with pytest.raises(Denied, match="is an agent"):
        agent("review_decide", dataset="talk", decisions=[{"id": row(2)["id"], "verdict": "accept"}])


def test_decisions_hold_in_a_version_with_the_same_words_and_for_files_without_ids(
    ann: As, tmp_path: Path
) -> None:
    plain = [{k: v for k, v in row(n).items() if k in ("prompt", "completion")} for n in range(3)]
    ann.ctx.artifacts.add("dataset", write_lines(tmp_path / "p.jsonl", plain), name="plain")
    ann("review_decide", dataset="plain", decisions=[{"id": row(1)["id"], "verdict": "accept"}])
    again = write_lines(tmp_path / "q.jsonl", [*reversed(plain), {"prompt": "new", "completion": "x"}])
    ann.ctx.artifacts.add("dataset", again, name="plain")
    assert ann("show_dataset", dataset="plain").review.accepted == 1
    assert ann("publish_dataset", dataset="plain").rows == {"train": 1}


def test_what_two_people_say_is_measured_on_the_rows_both_saw(ann: As) -> None:
    ids = [row(n)["id"] for n in range(8)]
    for who, verdicts in (("bob", "aaaarrrr"), ("eve", "aaaarrra")):
        given_ = [
            {"id": item, "verdict": {"a": "accept", "r": "reject"}[verdict]}
            for item, verdict in zip(ids, verdicts, strict=True)
        ]
        ann("review_decide", dataset="talk", reviewer=who, decisions=given_)
    review = ann("show_dataset", dataset="talk").review
    expected = agreement.alpha([["x", "x"]] * 4 + [["y", "y"]] * 3 + [["y", "x"]])
    assert (review.judged_twice, review.alpha) == (8, round(expected, 3))
    assert review.alpha_low <= review.alpha <= review.alpha_high
    assert all(a != b for a, b in itertools.combinations(ids, 2))
