"""Requests that are refused by what is wrong with them."""

from __future__ import annotations

import pytest

from tests.recipes.serve_retriever.conftest import recipe


def test_a_body_with_an_unknown_field_is_refused_by_its_name() -> None:
    with pytest.raises(recipe.problems.Problem, match="querry: Extra inputs are not permitted") as refused:
        recipe.app.parse(recipe.bodies.Search, b'{"collection": "a", "query": "b", "querry": 1}')
    assert refused.value.status == 422


def test_a_chunk_that_starts_inside_of_a_character_is_refused() -> None:
    document = recipe.bodies.NewDocument(
        document="a.md", digest="d", title="A", text="Größe", chunks=[recipe.bodies.Range(start=3, end=7)]
    )
    with pytest.raises(recipe.problems.Problem, match=r"a\.md: no text at bytes 3-7 of 7"):
        document.cut()


@pytest.mark.parametrize(
    ("title", "heading", "embedded"),
    [("", [], "Size"), ("A", ["A", "B"], "A > B\nSize"), ("", ["B"], "B\nSize")],
)
def test_a_chunk_is_embedded_under_its_title_and_headings_where_there_are_some(
    title: str, heading: list[str], embedded: str
) -> None:
    document = recipe.bodies.NewDocument(
        document="1.md",
        digest="d",
        title=title,
        text="Size",
        chunks=[recipe.bodies.Range(start=0, end=4, heading=heading)],
    )
    assert [chunk.embedded for chunk in document.cut()] == [embedded]
