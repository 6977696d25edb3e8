"""The whole of it, in its own environment."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.prepare_data.conftest import RECIPE, jsonl, lines, recipe


@pytest.fixture(scope="module")
def python(interpreter: Callable[[str], Path]) -> Path:
    return interpreter("prepare_data")


def run(python: Path, folder: Path, *sources: Path, **spec: Any) -> tuple[int, Any, Path]:
    """Exit code, the result or the error event, and the folder of what was made."""
    out = folder / "out"
    out.mkdir()
    whole = {
        "name": "support",
        "inputs": {str(n): str(path) for n, path in enumerate(sources)},
        "sources": [{"input": str(n), "name": path.name} for n, path in enumerate(sources)],
        **spec,
    }
    (folder / "spec.json").write_text(json.dumps(whole))
    command = [str(python), "-P", str(RECIPE), str(folder / "spec.json"), str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode == 0:
        return 0, json.loads((out / "result.json").read_text()), out
    assert ran.returncode == 2, ran.stderr
    return 2, json.loads(ran.stdout.splitlines()[-1]), out


TABLES = """
import json, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
folder = Path(sys.argv[1])
tickets = {"subject": ["Refund", "Login"], "body": ["money back", "no entry"], "reply": ["soon", "try again"]}
pq.write_table(pa.table(tickets), folder / "t.parquet")
pairs = pa.table({"question": ["one?", "two?"], "answer": ["1", "2"]})
name = "data-00000-of-00001.arrow"
(folder / "saved").mkdir()
with pa.OSFile(str(folder / "saved" / name), "wb") as sink, pa.ipc.new_stream(sink, pairs.schema) as writer:
    writer.write_table(pairs)
state = {"_data_files": [{"filename": name}], "_indices_files": None}
(folder / "saved" / "state.json").write_text(json.dumps(state))
"""


@pytest.mark.slow
def test_mixed_sources_become_splits_with_cards_and_nothing_is_lost(tmp_path: Path, python: Path) -> None:
    subprocess.run([str(python), "-c", TABLES, str(tmp_path)], check=True)
    asked = "please mail me at ann@example.com about parcel {}, or call me on +49 30 901820"
    german = {"prompt": "Wo ist denn mein Paket geblieben?", "completion": "Es kommt sicher morgen an."}
    mailed = [{"prompt": asked.format(n), "completion": "Done, ann@example.com"} for n in range(5)]
    chats = jsonl(tmp_path / "chats.jsonl", [*mailed, german])
    code, result, out = run(
        python,
        tmp_path,
        chats,
        tmp_path / "t.parquet",
        tmp_path / "saved",
        languages=["en"],
        validation=0.2,
        test=0.2,
    )
    assert code == 0
    assert {f: m["rows"] for f, m in result["mapping"].items()} == {
        "chats.jsonl": 6,
        "t.parquet": 2,
        "saved/data-00000-of-00001.arrow": 2,
    }
    written = [row for name in result["splits"] for row in lines(out / name / "data.jsonl")]
    dropped = lines(out / "dropped.jsonl")
    assert len(written) + len(dropped) == 10
    assert [(d["step"], d["origin"]) for d in dropped] == [("language", "chats.jsonl:6")]
    assert result["pii"]["found"] == {"EMAIL": 5, "PHONE": 5}
    everything = "".join(path.read_text(encoding="utf-8") for path in out.rglob("*") if path.is_file())
    assert "ann@example.com" not in everything
    assert "901820" not in everything
    first = next(row for row in written if row["origin"] == "chats.jsonl:1")
    assert first["completion"][0]["content"] == "Done, [EMAIL_1]"
    assert {row["group"] for row in written if row["origin"].startswith("chats")} == {first["group"]}
    assert "Not** looked for" in (out / "train" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_rows_of_traffic_keep_their_lineage_and_their_pairs(tmp_path: Path, python: Path) -> None:
    lineage = {"request": "req-1", "asked": "tickets", "model": "fine", "at": "2026-01-02T03:04:05+00:00"}
    traffic = [
        {"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Where is it?"}],
         "completion": "Tomorrow.", "rejected": "No idea.", "source": lineage},
        {"prompt": [{"role": "user", "content": "How do I log in?"}], "completion": "With your name.",
         "rating": 1, "user": "u7", "source": lineage | {"request": "req-2"}},
    ]  # fmt: skip
    path = jsonl(tmp_path / "traffic.jsonl", traffic)
    code, result, out = run(python, tmp_path, path, validation=0, test=0)
    assert (code, result["dropped"], result["pairs"]) == (0, 0, 1)
    made = {row["source"]["request"]: row for row in lines(out / "train" / "data.jsonl")}
    assert made["req-1"]["source"] == lineage
    assert (made["req-1"]["completion"][0]["content"], made["req-1"]["rejected"]) == ("Tomorrow.", "No idea.")
    assert (made["req-2"]["user"], made["req-2"].get("rejected") or "") == ("u1", "")


@pytest.mark.slow
def test_near_duplicates_are_those_that_comparing_all_pairs_finds(tmp_path: Path, python: Path) -> None:
    sentence = "where is my parcel please tell me soon because it was sent last week by your shop and so"
    words = sentence.split()
    texts = [" ".join([*words[:k], f"w{n}", *words[k:]]) for n, k in enumerate([3, 5, 9, 12, 15])]
    texts += [f"{w} " * 3 + f"number {n * 7919} of {n}" for n, w in enumerate(words)]
    path = jsonl(
        tmp_path / "a.jsonl", [{"prompt": text, "completion": f"{n}"} for n, text in enumerate(texts)]
    )
    near, grams, similarity = 0.6, recipe.near_duplicates.grams, recipe.near_duplicates.similarity
    code, result, out = run(python, tmp_path, path, near=near, pii="keep")
    assert code == 0
    shapes = {(text := row["prompt"][-1]["content"]): grams(recipe.samples.normalise(text))
              for name in result["splits"] for row in lines(out / name / "data.jsonl")}  # fmt: skip
    side = {
        row["prompt"][-1]["content"]: name
        for name in result["splits"]
        for row in lines(out / name / "data.jsonl")
    }
    similar = [(a, b) for a, b in itertools.combinations(shapes, 2)
               if similarity(shapes[a], shapes[b]) >= near]  # fmt: skip
    assert len(similar) >= 10
    assert all(side[a] == side[b] for a, b in similar)


@pytest.mark.slow
def test_the_same_files_and_options_make_the_same_bytes(tmp_path: Path, python: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", [{"prompt": f"question {n * 7919}", "completion": f"{n}"} for n in range(40)]
    )
    made: list[dict[str, bytes]] = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        code, _, out = run(python, folder, path, pii="keep", seed=3)
        assert code == 0
        made.append(
            {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.suffix in (".jsonl", ".md")}
        )
    assert made[0] == made[1]
