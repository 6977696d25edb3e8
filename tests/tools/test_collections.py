"""The tool list_collections reads the file that the retriever keeps, in the retriever's own layout."""

from __future__ import annotations

import ast
import sqlite3
from pathlib import Path

import pytest

from agentd.daemon import Daemon
from tests.tools.conftest import context_of

pytestmark = pytest.mark.anyio
RECIPE = Path(__file__).parents[2] / "tools/recipes/serve_retriever/store.py"


def layout() -> str:
    """The tables as the recipe makes them; importing it would need its environment."""
    for node in ast.parse(RECIPE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SCHEMA":
            return ast.literal_eval(node.value)
    raise AssertionError("the recipe has no SCHEMA")


async def listed(daemon: Daemon, cwd: Path) -> list[dict[str, object]]:
    found = await context_of(daemon, cwd).call("list_collections", {})
    return found.model_dump()["collections"]


async def test_there_are_none_before_anything_was_ingested(daemon: Daemon, tmp_path: Path) -> None:
    assert await listed(daemon, tmp_path) == []


async def test_documents_and_chunks_are_counted(daemon: Daemon, tmp_path: Path) -> None:
    store = sqlite3.connect(context_of(daemon, tmp_path).data_dir("retriever") / "store.sqlite")
    store.executescript(layout())
    store.execute("INSERT INTO collections(name, embedder) VALUES ('handbook', 'minilm-l6'), ('empty', 'x')")
    for number in (1, 2):
        store.execute(
            "INSERT INTO documents(id, collection, name, root, digest, title, source)"
            " VALUES (?, 1, ?, '/d', 'd', 't', 's')",
            (number, f"{number}.md"),
        )
        store.execute(
            'INSERT INTO chunks(document, start, "end", heading, text, vector)'
            " VALUES (?, 0, 1, '', 't', 'v')",
            (number,),
        )
    store.commit()
    store.close()
    assert await listed(daemon, tmp_path) == [
        {"name": "empty", "embedder": "x", "documents": 0, "chunks": 0, "owner": ""},
        {"name": "handbook", "embedder": "minilm-l6", "documents": 2, "chunks": 2, "owner": ""},
    ]
