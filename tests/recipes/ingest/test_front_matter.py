"""What filters can use of front matter."""

from __future__ import annotations

from tests.recipes.ingest.conftest import recipe

TEXT = """---
title: "Taxes: a guide"
tags: [law, 'money']   
authors:
  - Ann
  - Bo # the younger
year: 2024
empty:
nested:
  deep: 1
---
# Taxes
tags: none of these
"""


def test_texts_and_lists_are_read_and_the_rest_is_left_out() -> None:
    assert recipe.front_matter.fields_of(TEXT) == {
        "title": "Taxes: a guide",
        "tags": ["law", "money"],
        "authors": ["Ann", "Bo"],
        "year": "2024",
    }
    assert recipe.front_matter.fields_of("# Taxes\n---\na: b\n---\n") == {}
