"""What a person is shown before they approve: nothing in it moves the cursor, hides or misleads."""

from __future__ import annotations

import io
import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agentd.cli import follow, show
from agentd.cli.visible import visible
from agentd.wording import shortened, spelled

HOSTILE = (
    "\x1b[2J\x1b[31mred\x1b[0m",
    "\x9b31m",
    "\x07\x08\r",
    "safe\n  at most  $0.00",
    "txt.\u202egpj.exe",
    "\u2066isolate\u2069",
    "zero\u200bwidth\ufeff",
    "\U000e0041\U000e0042 tags",
    "filler\u3164\u115f\u2800",
    "[bold red]markup[/]",
    "[link=https://example.com]here[/link]",
    "\u00a0\u2028\u2029",
    "\x7f\x00",
)


@given(st.text())
def test_what_is_spelled_is_printable_and_what_is_printable_ascii_stays(text: str) -> None:
    shown = spelled(text)
    assert all(character.isprintable() for character in shown)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for c in shown)
    assert shown == visible(text).plain
    plain = "".join(character for character in text if " " <= character <= "~")
    assert spelled(plain) == plain


def test_letters_of_any_script_stay_and_what_hides_is_named() -> None:
    assert spelled("Größe 大小 размер ✓ é") == "Größe 大小 размер ✓ é"
    assert spelled("a\u202eb\x1b[0m\n\u3164") == "a\\u202eb\\x1b[0m\\n\\u3164"
    assert spelled("a\nb\tc\x1b", lines=True) == "a\nb\tc\\x1b"


def test_an_escape_is_set_off_from_a_text_that_looks_like_one() -> None:
    assert [span.style for span in visible("\x1b").spans] == ["reverse"]
    assert visible("\\x1b").spans == []


def test_a_long_text_says_how_long_it_is() -> None:
    assert shortened("x" * 400) == "x" * 400
    assert shortened("x" * 12_345).endswith("xxx … (12,345 characters in all)")


# --- a question -----------------------------------------------------------------------------


def question(**changes: Any) -> dict[str, Any]:
    facts = {
        "arguments": {"text": "x", "timeout_s": 60},
        "quote": {"seconds": 5.0, "micro_usd": 1000, "basis": "a guess"},
        "max_micro_usd": 20_000,
        "timeout_s": 60.0,
        "recipe": "work",
        "recipe_digest": "r" * 64,
        "inputs": {"source": "i" * 64},
        "environment": "e" * 64,
        "why": "rule 'work' of 'asking'",
    }
    return {
        "id": "apr-2",
        "action": "Work on x",
        "requested_by": "agent:ada",
        "digest": "d" * 64,
        "facts": facts,
        "people": 1,
        "given": 0,
        "answers": [],
        "like": None,
        "differences": [],
    } | changes


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``shown(question)``: the lines on the terminal of the person who is asked, in colour."""

    def show_(asked: dict[str, Any]) -> list[str]:
        written = io.StringIO()
        console = Console(
            file=written, force_terminal=True, color_system="truecolor", width=200, highlight=False
        )
        monkeypatch.setattr(follow, "errors", console)
        follow.show_question(asked)
        return written.getvalue().splitlines()

    return show_


def plain(lines: list[str]) -> list[str]:
    """Without the colours that we set ourselves."""
    from rich.text import Text

    return [Text.from_ansi(line).plain.rstrip() for line in lines]


def test_what_differs_comes_first_old_to_new(shown: Any) -> None:
    changed = [
        {"what": "at most", "before": 10_000, "now": 200_000, "form": "usd"},
        {"what": "limit", "before": 60.0, "now": 7200.0, "form": "seconds"},
        {"what": "epochs", "before": 2, "now": 3, "form": "value"},
        {"what": "input data", "before": "a" * 64, "now": None, "form": "digest"},
    ]
    lines = plain(shown(question(like="apr-1", differences=changed)))
    assert lines[1] == "differs from apr-1, which was approved:"
    assert [line.strip() for line in lines[2:6]] == [
        "at most  $0.01 → $0.20",
        "limit  60 s → 2.0 h",
        "epochs  2 → 3",
        f"input data  {'a' * 16} → (none)",
    ]
    assert lines[6].strip().startswith("asked by  agent:ada")


def test_what_was_not_approved_before_is_told(shown: Any) -> None:
    assert "nothing like it was approved before" in plain(shown(question()))
    assert "nothing differs from apr-1, which was approved" in plain(shown(question(like="apr-1")))


def test_a_question_that_is_asked_again_says_why_and_how_many_have_approved(shown: Any) -> None:
    asked = question(people=2, given=1, answers=[{"person": "ada", "verdict": "approve"}])
    asked["facts"]["again"] = {"after": "apr-1", "because": "it may cost $1.20 now, up from $0.60"}
    lines = [line.strip() for line in plain(shown(asked))]
    assert lines[1:3] == [
        "asked again  it may cost $1.20 now, up from $0.60 (after apr-1)",
        "approved by  1 of 2 people (ada)",
    ]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_hostile_reaches_the_terminal_from_anywhere_in_a_question(shown: Any, hostile: str) -> None:
    harmless = shown(question())
    facts = question()["facts"] | {
        "arguments": {"text": hostile, hostile: [hostile, {hostile: hostile}]},
        "why": hostile,
        "inputs": {hostile: hostile},
        "recipe": hostile,
        "environment": hostile,
        "quote": {"basis": hostile},
        "again": {"after": hostile, "because": hostile},
    }
    difference = {"what": hostile, "before": hostile, "now": hostile, "form": "value"}
    answers = [{"person": hostile, "verdict": "approve"}]
    lines = shown(
        question(
            action=hostile, requested_by=hostile, facts=facts, digest=hostile, people=2, given=1,
            answers=answers, like=hostile, differences=[difference],
        )
    )  # fmt: skip
    ours = {part for line in harmless for part in _sequences(line)} | {"\x1b[7m", "\x1b[2;7m", "\x1b[1;7m"}
    found = {part for line in lines for part in _sequences(line)}
    assert found <= ours | {"\x1b[7m"}, found - ours
    text = "\n".join(plain(lines))
    assert all(character.isprintable() or character == "\n" for character in text)
    assert not any(line.strip().startswith("at most  $0.00") for line in text.splitlines())
    if hostile.startswith("["):
        assert hostile in text


def _sequences(line: str) -> list[str]:
    import re

    return re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\x1b[^\[]|\x9b", line)


def test_one_argument_does_not_pass_for_two(shown: Any) -> None:
    asked = question()
    asked["facts"]["arguments"] = {"text": "a, force=True", "count": "3", "more": 3}
    lines = [line.strip() for line in plain(shown(asked))]
    assert {'with text  "a, force=True"', 'with count  "3"', "with more  3"} <= set(lines)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_json_for_programs_says_the_same_and_moves_no_cursor(
    hostile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show.as_json({hostile: hostile})
    out = capsys.readouterr().out
    assert json.loads(out) == {hostile: hostile}
    hidden = set("\x1b\x9b\x07\x7f\u202e\u2066\u200b\ufeff")
    assert not hidden & set(out)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_tables_are_escaped_as_well(hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(show, "console", Console(file=written, width=200, highlight=False))
    show.table(["approval", "action"], [("apr-1", hostile)], empty="")
    assert all(character.isprintable() for character in written.getvalue().replace("\n", ""))
