"""tools/recipes/learn_ranking.py: judgments are read, and a ranking is kept only if it is better."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tools/recipes/learn_ranking.py"
recipe = load(RECIPE)
NAMES = ["hint", "score"]


@pytest.mark.parametrize(
    ("document", "grade"),
    [("/d/a.md", 1), ("/d/sub/b.md", 2), ("/d/corpus.jsonl#7", 3), ("/d/b.md", 0), ("/d/17", 0)],
)
def test_a_judgment_names_a_document_by_its_path_the_end_of_it_or_the_id_of_a_row(
    document: str, grade: int
) -> None:
    assert recipe.grade_of(document, {"/d/a.md": 1, "sub/b.md": 2, "7": 3}) == grade


def test_a_line_that_is_no_judgment_is_refused_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "judgments.jsonl"
    file.write_text('{"query": "q", "document": "a.md"}\n\n{"query": "q"}\n')
    with pytest.raises(recipe.Refused, match="line 3: no query with a document"):
        recipe.read_judgments(file)
    file.write_text('{"query": "q", "document": "a.md"}\n{"query": "q", "document": "b.md", "grade": 0}\n')
    assert recipe.read_judgments(file) == {"q": {"a.md": 1, "b.md": 0}}


class Handler(BaseHTTPRequestHandler):
    """A search that ranks ten candidates by chance; `hint` tells the right one if `server.tells`."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        told: dict[str, Any] = {"kept": True}
        if self.path == "/ranking":
            server.kept = body.get("weights")
        else:
            rng = random.Random(body["query"])
            rows = [[float(n == 0 and server.tells) + rng.random() / 2, rng.random()] for n in range(10)]
            told = {"names": NAMES, "documents": [f"/d/{n}.md" for n in range(10)], "rows": rows}
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.mark.slow
def test_a_ranking_is_kept_if_it_is_better_on_questions_held_out_and_forgotten_if_not(
    interpreter: Callable[[str], Path], tmp_path: Path
) -> None:
    python = interpreter("learn_ranking")
    rows = [{"query": f"question {n}", "document": "0.md"} for n in range(60)]
    (tmp_path / "judgments.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        inputs = {"judgments": str(tmp_path / "judgments.jsonl"), "verdict": str(ROOT / "tools/verdict.py")}
        service = {"url": f"http://127.0.0.1:{server.server_port}", "token_env": "TOKEN"}
        spec = {"inputs": inputs, "collection": "a", "services": {"retriever": service}}
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        found: dict[bool, tuple[dict[str, Any], Any]] = {}
        for tells in (True, False):
            server.tells, server.kept = tells, "nothing"  # type: ignore[attr-defined]
            command = [str(python), "-P", str(RECIPE), str(tmp_path / "spec.json"), str(tmp_path)]
            ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TOKEN": "t"})
            assert ran.returncode == 0, ran.stdout + ran.stderr
            found[tells] = json.loads((tmp_path / "result.json").read_text()), server.kept  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
    better, kept = found[True]
    assert (better["kept"], len(kept)) == (True, 2)
    assert better["after"] > 0.95 > better["before"]
    assert better["weights"]["hint"] > abs(better["weights"]["score"])
    assert found[False][0]["kept"] is False
    assert found[False][1] is None
