"""tools/recipes/prepare_data.py: its parts, and the whole of it in its own environment."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import load

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tools/recipes/prepare_data.py"


recipe = load(RECIPE)


def read(path: Path, **spec: Any) -> tuple[list[Any], dict[str, Any], list[Any]]:
    """Samples, mapping by file, and what was left out."""
    steps = recipe.Steps()
    given = {"inputs": {"0": str(path)}, "sources": [{"input": "0", "name": path.name}], **spec}
    samples, mapping = recipe.read_all(given, steps)
    return samples, mapping, steps.dropped


def said(sample: Any) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in sample.messages]


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(asked: str, answer: str = "yes", **about: Any) -> Any:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return recipe.Sample("f:1", messages, **about)


# --- reading and mapping --------------------------------------------------------------------

ASKED = [("user", "where is it?"), ("assistant", "on its way")]


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"prompt": "where is it?", "completion": "on its way"}, "pairs"),
        ({"question": "where is it?", "answer": "on its way", "note": "x"}, "pairs"),
        ({"messages": [{"role": r, "content": c} for r, c in ASKED]}, "messages"),
        ({"messages": json.dumps([{"role": r, "content": c} for r, c in ASKED])}, "messages"),
        (
            {
                "conversations": [
                    {"from": "human", "value": "where is it?"},
                    {"from": "gpt", "value": "on its way"},
                ]
            },
            "messages",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "where is it?"}]},
                    {"role": "assistant", "content": "on its way"},
                ]
            },
            "messages",
        ),
    ],
)
def test_the_usual_kinds_of_rows_are_recognised_by_their_columns(
    tmp_path: Path, row: dict[str, Any], shape: str
) -> None:
    samples, mapping, dropped = read(jsonl(tmp_path / "a.jsonl", [row]))
    assert (mapping["a.jsonl"]["shape"], said(samples[0]), dropped) == (shape, ASKED, [])


def test_a_preference_row_keeps_both_answers(tmp_path: Path) -> None:
    row = {
        "conversations": [{"from": "human", "value": "where is it?"}],
        "chosen": {"from": "gpt", "value": "on its way"},
        "rejected": {"from": "gpt", "value": "no idea"},
    }
    samples, _, _ = read(jsonl(tmp_path / "a.jsonl", [row]))
    assert (said(samples[0]), samples[0].rejected) == (ASKED, "no idea")


def test_a_table_of_single_messages_becomes_conversations_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "chats.csv"
    path.write_text(
        "chat_id;sent_at;speaker;message;customer_id\n"
        'b;2024-01-02;Support agent;"on its way";eve\n'
        "b;2024-01-01;Customer;where is it?;eve\n"
        "a;2024-01-01;Customer;hello?;bob\n",
        encoding="utf-8",
    )
    samples, mapping, dropped = read(path)
    assert mapping["chats.csv"]["shape"] == "turns"
    assert [(said(s), s.user, s.origin) for s in samples] == [(ASKED, "eve", "chats.csv:3")]
    assert [(d["origin"], d["reason"]) for d in dropped] == [("chats.csv:4", "nobody answers")]


def test_a_ticket_is_asked_by_subject_and_body_and_answered_by_its_label_if_by_nothing_else(
    tmp_path: Path,
) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"subject": "Parcel", "body": "where is it?", "queue": "shipping"}])
    samples, mapping, _ = read(path)
    assert mapping["t.jsonl"]["columns"]["prompt"] == "subject+body"
    assert said(samples[0]) == [("user", "Parcel\n\nwhere is it?"), ("assistant", "shipping")]
    assert samples[0].label == "shipping"


def test_a_transcript_is_cut_at_rules_and_continues_over_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(
        "[10:01] Customer: where is it?\nNote: it was late\n[10:02] Agent: on its\nway\n---\n"
        "Customer: hi\nAgent: hello\n",
        encoding="utf-8",
    )
    samples, _, _ = read(path)
    assert [said(s) for s in samples] == [
        [("user", "where is it?\nNote: it was late"), ("assistant", "on its\nway")],
        [("user", "hi"), ("assistant", "hello")],
    ]


def test_of_two_unknown_speakers_the_first_one_asks_and_names_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("Ann: where is it?\nBob: on its way\nAnn: thanks\nBob: bye\n", encoding="utf-8")
    assert said(read(path)[0][0])[:2] == ASKED
    samples, _, _ = read(path, speakers={"Ann": "assistant", "bob": "user"})
    assert said(samples[0]) == [
        ("assistant", "where is it?"),
        ("user", "on its way"),
        ("assistant", "thanks"),
    ]


def test_columns_are_taken_as_they_are_named_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"x": "where is it?", "y": "on its way", "z": "s"}])
    samples, _, _ = read(path, columns={"prompt": "x", "completion": "y", "user": "z"}, system="be kind")
    assert said(samples[0]) == [("system", "be kind"), *ASKED]
    with pytest.raises(recipe.Stop, match="has the columns x, y, z"):
        read(path)
    with pytest.raises(recipe.Stop, match="No file has a column 'w'"):
        read(path, columns={"prompt": "w"})
    with pytest.raises(recipe.Stop, match="columns names 'promt'"):
        read(path, columns={"promt": "x"})


def test_what_makes_no_row_is_kept_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "", "completion": "b"},
        {"prompt": "a", "completion": None},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{oops\n", encoding="utf-8")
    samples, _, dropped = read(path)
    assert len(samples) == 1
    assert sorted((d["origin"], d["reason"]) for d in dropped) == [
        ("a.jsonl:2", "the prompt is empty"),
        ("a.jsonl:3", "the completion is empty"),
        ("a.jsonl:4", "it cannot be read as a record"),
    ]
    assert next(d["row"] for d in dropped if d["origin"] == "a.jsonl:4") == "{oops"


def test_texts_and_conversations_are_not_mixed(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [{"text": "once"}])
    jsonl(tmp_path / "b.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(recipe.Stop, match="plain text, others conversations"):
        read(tmp_path)


def test_a_folder_without_readable_files_and_a_strange_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    for path in (tmp_path, tmp_path / "a.pdf"):
        with pytest.raises(recipe.Stop) as caught:
            read(path)
        assert ".jsonl" in caught.value.hint


# --- cleaning -------------------------------------------------------------------------------


def test_exact_repeats_are_left_out_whatever_their_case_and_contradictions_are_told() -> None:
    steps = recipe.Steps()
    samples = [chat("Where is it?"), chat("where is it", "YES"), chat("Where is it?", "no")]
    kept = recipe.without_repeats(samples, steps)
    assert [s.answer for s in kept] == ["yes", "no"]
    assert recipe.conflicts(kept, steps) == 2
    assert steps.told[-1]["examples"]


def test_answers_rated_differently_become_a_pair() -> None:
    steps = recipe.Steps()
    rated = [("a", "good", 1.0), ("a", "bad", -1.0), ("b", "poor", -1.0), ("c", "yes", None)]
    samples = [chat(asked, answer, rating=rating) for asked, answer, rating in rated]
    kept = recipe.by_rating(samples, 0.0, steps)
    assert [(s.answer, s.rejected) for s in kept] == [("good", "bad"), ("yes", "")]
    assert [d["reason"] for d in steps.dropped] == [
        "it is the worse answer of a pair with f:1",
        "it is rated -1, below 0",
    ]


def test_a_template_that_all_rows_share_does_not_make_them_alike() -> None:
    words = (
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho tau psi chi"
    )
    samples = [
        chat(f"Please classify this customer message now: {word}. Answer in JSON only, please")
        for word in words.split()
    ]
    assert recipe.compared(samples) == words.split()


def test_balance_draws_down_or_repeats_up_to_a_level() -> None:
    def labels(samples: Iterable[Any]) -> Counter[str]:
        return Counter(s.label for s in samples)

    samples = [
        chat(f"{label} {n}", label=label)
        for label, many in (("a", 9), ("b", 5), ("c", 2))
        for n in range(many)
    ]
    assert labels(recipe.capped(list(samples), 0, 0, recipe.Steps())) == {"a": 5, "b": 5, "c": 2}
    assert labels(recipe.upsampled(list(samples), 0, 0, recipe.Steps())) == {"a": 9, "b": 5, "c": 5}


# --- split ----------------------------------------------------------------------------------

rows = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from(["", "u1", "u2", "u3"]), st.sampled_from(["", "d1", "d2"]),
              st.sampled_from("xy")),
    min_size=1, max_size=60,
)  # fmt: skip


@given(rows, st.integers(0, 5))
def test_no_cluster_user_or_document_is_ever_on_two_sides(
    given_rows: list[tuple[int, str, str, str]], seed: int
) -> None:
    samples = [
        chat(f"{cluster} {n}", cluster=cluster, user=user, document=document, label=label)
        for n, (cluster, user, document, label) in enumerate(given_rows)
    ]
    splits = recipe.split(samples, {"train": 0.8, "validation": 0.1, "test": 0.1}, seed)
    assert sum(map(len, splits.values())) == len(samples)
    for one, other in itertools.combinations(splits.values(), 2):
        for a, b in itertools.product(one, other):
            assert a.cluster != b.cluster
            assert not a.user or a.user != b.user
            assert not a.document or a.document != b.document
    assert all(told["crossing"] == 0 for told in recipe.proof(splits).values())


def test_rows_without_groups_are_split_by_share_and_label() -> None:
    samples = [chat(f"{n}", label="rare" if n % 10 == 0 else "often") for n in range(1000)]
    splits = recipe.split(samples, {"train": 0.8, "validation": 0.1, "test": 0.1}, 0)
    counts = {name: Counter(s.label for s in rows) for name, rows in splits.items()}
    assert counts == {
        "train": {"often": 720, "rare": 80},
        "validation": {"often": 90, "rare": 10},
        "test": {"often": 90, "rare": 10},
    }
    again = recipe.split(list(reversed(samples)), {"train": 0.8, "validation": 0.1, "test": 0.1}, 0)
    assert {s.asked for s in again["test"]} == {s.asked for s in splits["test"]}


def test_proof_counts_what_crosses() -> None:
    splits = {"train": [chat("a", cluster=1, user="u")], "test": [chat("b", cluster=1, user="u")]}
    told = recipe.proof(splits)
    assert (told["clusters"]["crossing"], told["users"]["crossing"], told["equal_questions"]["crossing"]) == (
        1,
        1,
        0,
    )


def test_each_answer_of_a_conversation_can_be_a_row() -> None:
    sample = chat("a")
    sample.messages += [{"role": "user", "content": "b"}, {"role": "assistant", "content": "no"}]
    sample.user = "eve@example.com"
    (last,) = recipe.rows_of([sample], "last", {"eve@example.com": "u1"})
    assert (len(last["prompt"]), last["completion"][0]["content"], last["user"]) == (3, "no", "u1")
    assert [len(row["prompt"]) for row in recipe.rows_of([sample], "each", {})] == [1, 3]


# --- the whole of it ------------------------------------------------------------------------


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


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
    near = 0.6
    code, result, out = run(python, tmp_path, path, near=near, pii="keep")
    assert code == 0
    shapes = {row["prompt"][-1]["content"]: recipe.grams(recipe.normalise(row["prompt"][-1]["content"]))
              for name in result["splits"] for row in lines(out / name / "data.jsonl")}  # fmt: skip
    side = {
        row["prompt"][-1]["content"]: name
        for name in result["splits"]
        for row in lines(out / name / "data.jsonl")
    }
    similar = [(a, b) for a, b in itertools.combinations(shapes, 2)
               if recipe.similarity(shapes[a], shapes[b]) >= near]  # fmt: skip
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


MARKED = {
    "pay with 4111 1111 1111 1111": "pay with [CREDIT_CARD_1]",
    "to DE89370400440532013000 please": "to [IBAN_1] please",
    "from 192.168.0.1 at night": "from [IP_ADDRESS_1] at night",
    "my key is sk-proj-abcdefghij0123456789ABCD": "my key is [SECRET_1]",
    "call 4155552671 or (415) 555-2671": "call [PHONE_1] or [PHONE_1]",
    "please cancel order 3707955617 at 10:30": "please cancel order 3707955617 at 10:30",
    "purchase 113542617735902": "purchase 113542617735902",
}


@pytest.mark.slow
def test_personal_data_is_marked_and_order_numbers_are_not(python: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import prepare_data\n"
        "for text in sys.argv[2:]: print(prepare_data.Masker()(text))"
    )
    command = [str(python), "-c", program, str(RECIPE.parent), *MARKED]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == list(MARKED.values())
