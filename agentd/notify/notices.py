"""What is told of the journal, and in what words: a pure function of entries.

Equal things become one notice, and many of a kind one line with a count. What an agent or a program wrote
stands in quotation marks, on one line, cut short, and without what a terminal or a chat would obey.
"""

from __future__ import annotations

import datetime
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from agentd.redaction import redact
from agentd.store.journal import Entry
from agentd.store.ledger import usd

__all__ = ["KINDS", "Message", "Notice", "compose", "kinds_of", "quoted", "trial"]

SHOWN = 5
"""Of one kind, in one message; the others are counted."""

LONGEST_QUOTE = 200

KINDS: Mapping[str, tuple[str, ...]] = {
    "approval.waiting": ("approval.asked", "approval.answered"),
    "approval.expired": ("approval.expired",),
    "job.failed": ("job.failed", "job.lost", "job.timed_out"),
    "job.succeeded": ("job.succeeded",),
    "run.failed": ("run.failed",),
    "run.succeeded": ("run.succeeded",),
    "budget.low": ("budget.low",),
    "budget.spent": ("budget.spent",),
    "disk.low": ("disk.low",),
    "token.created": ("token.created",),
    "journal.broken": ("journal.broken",),
    "notifier.failing": ("notifier.failing",),
    "rollout.rolled_back": ("rollout.rolled_back",),
    "rollout.waiting": ("rollout.waiting",),
    "rollout.done": ("rollout.done",),
}
"""What may be told of (`agentd.config.NoticeKind`), and the kinds of journal entries that it is."""

CLOSED = ("approval.approved", "approval.denied", "approval.void", "approval.expired")
"""After one of these nobody has to answer any more."""


class Notice(BaseModel):
    """One thing to tell. `seq` and `hash` are of its journal entry, the newest of `times` equal ones."""

    kind: str
    subject: str
    text: str
    at: float
    seq: int
    hash: str
    times: int = 1


class Message(BaseModel):
    """What goes out at once. The same journal entries give the same `id` and the same words, always.

    Of the kinds with many notices only the first few are in `notices`; `counts` has them all.
    """

    id: str
    title: str
    text: str
    at: float
    counts: dict[str, int] = {}
    notices: list[Notice] = []

    def body(self) -> dict[str, Any]:
        """As it goes over the wire: the shape of the Standard Webhooks specification."""
        moment = datetime.datetime.fromtimestamp(self.at, datetime.UTC)
        return redact(
            {
                "type": "agentd.notice",
                "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "data": self.model_dump(exclude={"at"}),
            }
        )


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind is told: `one` and `many` are its titles, `say` puts an entry into words."""

    one: str
    many: str
    say: Callable[[Entry], str]
    key: Callable[[Entry], str] = field(default=lambda entry: entry.subject)


def kinds_of(told: Sequence[str]) -> tuple[str, ...]:
    """The kinds of journal entries that have to be looked at for these."""
    wanted = [kind for each in told for kind in KINDS[each]]
    return tuple(dict.fromkeys([*wanted, *(CLOSED if "approval.waiting" in told else ())]))


def compose(entries: Sequence[Entry], told: Sequence[str]) -> Message | None:
    """One message of journal entries, oldest first; None if nothing of them is left to tell."""
    answered = {entry.subject: entry.seq for entry in entries if entry.kind in CLOSED}
    found: dict[str, dict[str, list[Entry]]] = {kind: {} for kind in told}  # kind -> key -> equal entries
    for entry in entries:
        kind = next((each for each in told if entry.kind in KINDS[each]), None)
        if kind is None or (kind == "approval.waiting" and answered.get(entry.subject, 0) > entry.seq):
            continue
        equal = found[kind].pop(_KINDS[kind].key(entry), [])  # they stand where the newest stands
        found[kind][_KINDS[kind].key(entry)] = [*equal, entry]
    for key in found.get("budget.spent", {}):
        found.get("budget.low", {}).pop(key, None)
    groups = {kind: list(by_key.values()) for kind, by_key in found.items() if by_key}
    if not groups:
        return None
    last = entries[-1]
    return _message(f"agentd_{last.seq}_{last.hash[:16]}", groups)


def trial(name: str, at: float) -> Message:
    """Something to see whether a notifier works."""
    text = f"This is a test of notifier {plain(name)}. Nothing happened."
    return Message(id=f"agentd_test_{round(at * 1000)}", title="agentd: a test", text=text, at=at)


def _message(id_: str, groups: Mapping[str, Sequence[Sequence[Entry]]]) -> Message:
    """Of each kind, equal entries in one list each, the newest last."""
    titles: list[str] = []
    lines: list[str] = []
    notices: list[Notice] = []
    for kind, each in groups.items():
        words = _KINDS[kind]
        titles.append(words.one if len(each) == 1 else words.many.format(n=len(each)))
        shown = [_notice(kind, equal) for equal in each[:SHOWN]]
        notices += shown
        lines += [notice.text for notice in shown]
        if len(each) > SHOWN:
            lines.append(f"… and {len(each) - SHOWN} more")
    return Message(
        id=id_,
        title=f"agentd: {', '.join(titles)}",
        text="\n".join(lines),
        at=max(equal[-1].at for each in groups.values() for equal in each),
        counts={kind: len(each) for kind, each in groups.items()},
        notices=notices,
    )


def _notice(kind: str, equal: Sequence[Entry]) -> Notice:
    entry = equal[-1]
    times = sum(each.kind == entry.kind for each in equal)
    text = _KINDS[kind].say(entry) + (f" ({times} times)" if times > 1 else "")
    return Notice(
        kind=kind,
        subject=plain(entry.subject),
        text=text,
        at=entry.at,
        seq=entry.seq,
        hash=entry.hash,
        times=times,
    )


# --- words ----------------------------------------------------------------------------------


def plain(value: Any) -> str:
    """A name or id on one line: what is invisible, or would be obeyed, is spelled out."""
    return "".join(map(_shown, str(value)))[:LONGEST_QUOTE]


def quoted(value: Any) -> str:
    """Words of somebody else, marked as such: ``“Fine-tune it”``. Nothing in them ends the quotation."""
    text = redact(" ".join(str(value).split()))
    text = text.translate(_HARMLESS).replace("://", ":/ /")
    shown = "".join(map(_shown, text))
    return f"“{shown[: LONGEST_QUOTE - 1]}…”" if len(shown) > LONGEST_QUOTE else f"“{shown}”"


_HARMLESS = str.maketrans({"“": "'", "”": "'", "<": "‹", ">": "›", "@": "＠"})


def _shown(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if unicodedata.category(letter) in _HIDDEN else letter


_HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Co", "Cs", "Cn")


def _money(value: Any) -> str:
    return usd(value) if isinstance(value, int) else "an unknown amount"


def _asked(entry: Entry) -> str:
    most, people = entry.data.get("most"), entry.data.get("people", 1)
    cost = f", at most {_money(most)}" if most else ""
    who = f", {people} people have to approve" if people != 1 else ""
    action = quoted(entry.data.get("action", ""))
    return f"{plain(entry.principal)} asks for {action}{cost}{who}: agentd approve {plain(entry.subject)}"


def _waits(entry: Entry) -> str:
    if entry.kind == "approval.asked":
        return _asked(entry)
    left = entry.data.get("left", 1)
    others = "one more person has" if left == 1 else f"{plain(left)} more people have"
    who, subject = plain(entry.principal), plain(entry.subject)
    return f"{who} approved {subject}, and {others} to: agentd approve {subject}"


def _ended(entry: Entry) -> str:
    state = entry.kind.partition(".")[2].replace("_", " ")
    tool = plain(entry.data.get("tool", "job"))
    cause = f" ({plain(entry.data['cause'])})" if entry.data.get("cause") else ""
    reason = f": {quoted(entry.data['reason'])}" if entry.data.get("reason") else ""
    return f"{tool} {plain(entry.subject)} {state}{cause}{reason}"


def _run(entry: Entry) -> str:
    reason = f": {quoted(entry.data['reason'])}" if entry.data.get("reason") else ""
    return f"{plain(entry.subject)} {entry.kind.partition('.')[2]}{reason}"


def _budget(entry: Entry) -> str:
    of = "" if entry.data.get("scope") == "everything" else f" of {plain(entry.data.get('name', ''))}"
    spent, limit = _money(entry.data.get("spent")), _money(entry.data.get("limit"))
    return f"The {plain(entry.data.get('period', ''))}'s budget{of}: {spent} of {limit} spent"


def _disk(entry: Entry) -> str:
    free = entry.data.get("free")
    left = f"{free / 1e9:.1f} GB" if isinstance(free, (int, float)) else "little"
    return f"{left} free in {plain(entry.subject)}: nothing is launched until there is more"


def _rollout(entry: Entry) -> str:
    alias, model = plain(entry.subject), plain(entry.data.get("model", ""))
    said = {
        "rollout.rolled_back": f"{alias} went back from {model}",
        "rollout.waiting": f"{alias} waits on its way to {model}, at {plain(entry.data.get('stage', ''))}",
        "rollout.done": f"All requests for {alias} are {model}'s now",
    }[entry.kind]
    return f"{said}: {quoted(entry.data.get('reason', ''))}"


_KINDS: Mapping[str, _Kind] = {
    "approval.waiting": _Kind(
        "an approval waits", "{n} approvals wait", _waits, lambda entry: str(entry.data.get("job"))
    ),
    "approval.expired": _Kind(
        "a question expired",
        "{n} questions expired",
        lambda entry: f"Nobody answered {plain(entry.subject)} of {plain(entry.data.get('job', ''))} in time",
    ),
    "job.failed": _Kind("a job failed", "{n} jobs failed", _ended),
    "job.succeeded": _Kind("a job succeeded", "{n} jobs succeeded", _ended),
    "run.failed": _Kind("a run failed", "{n} runs failed", _run),
    "run.succeeded": _Kind("a run succeeded", "{n} runs succeeded", _run),
    "budget.low": _Kind("a budget runs low", "{n} budgets run low", _budget),
    "budget.spent": _Kind("a budget is spent", "{n} budgets are spent", _budget),
    "disk.low": _Kind("the disk is low", "{n} disks are low", _disk),
    "token.created": _Kind(
        "a token was made",
        "{n} tokens were made",
        lambda entry: (
            f"{plain(entry.principal)} made {plain(entry.subject)} for {plain(entry.data.get('holder', ''))},"
            f" role {plain(entry.data.get('role', ''))}"
        ),
    ),
    "journal.broken": _Kind(
        "the journal is broken",
        "the journal is broken",
        lambda entry: f"Entry {plain(entry.subject)} is missing: agentd journal verify",
    ),
    "notifier.failing": _Kind(
        "a notifier fails",
        "{n} notifiers fail",
        lambda entry: (
            f"Notifier {plain(entry.subject)} delivers nothing: {quoted(entry.data.get('problem', ''))}"
        ),
    ),
    "rollout.rolled_back": _Kind("an alias went back", "{n} aliases went back", _rollout),
    "rollout.waiting": _Kind("a rollout waits", "{n} rollouts wait", _rollout),
    "rollout.done": _Kind("a rollout is done", "{n} rollouts are done", _rollout),
}
