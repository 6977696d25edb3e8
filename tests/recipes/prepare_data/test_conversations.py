"""Files of every kind, and what their columns are taken for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.prepare_data.conftest import jsonl, recipe, said


def read(path: Path, **spec: Any) -> tuple[list[Any], dict[str, Any], list[Any]]:
    """Samples, mapping by file, and what was left out."""
    steps = recipe.samples.Steps()
    given = {"inputs": {"0": str(path)}, "sources": [{"input": "0", "name": path.name}], **spec}
    samples, mapping = recipe.conversations.read_all(given, steps)
    return samples, mapping, steps.dropped


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
    with pytest.raises(recipe.events.Stop, match="has the columns x, y, z"):
        read(path)
    with pytest.raises(recipe.events.Stop, match="No file has a column 'w'"):
        read(path, columns={"prompt": "w"})
    with pytest.raises(recipe.events.Stop, match="columns names 'promt'"):
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
    with pytest.raises(recipe.events.Stop, match="plain text, others conversations"):
        read(tmp_path)


def test_a_folder_without_readable_files_and_a_strange_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    for path in (tmp_path, tmp_path / "a.pdf"):
        with pytest.raises(recipe.events.Stop) as caught:
            read(path)
        assert ".jsonl" in caught.value.hint
