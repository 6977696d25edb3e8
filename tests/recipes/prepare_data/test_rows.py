"""Rows as they are written."""

from __future__ import annotations

from tests.recipes.prepare_data.conftest import chat, recipe


def test_each_answer_of_a_conversation_can_be_a_row() -> None:
    sample = chat("a")
    sample.messages += [{"role": "user", "content": "b"}, {"role": "assistant", "content": "no"}]
    sample.user = "eve@example.com"
    (last,) = recipe.rows.rows_of([sample], "last", {"eve@example.com": "u1"})
    assert (len(last["prompt"]), last["completion"][0]["content"], last["user"]) == (3, "no", "u1")
    assert [len(row["prompt"]) for row in recipe.rows.rows_of([sample], "each", {})] == [1, 3]
