"""Pages for people as HTML that needs nothing else: no script, no network, no stylesheet of another.

Everything that came from outside is escaped, and what is hidden in it is spelled out and set off: who
decides reads words of models, documents and data here. Values stay in cells of their own.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from agentd.errors import AgentdError
from agentd.policy.told import money, told
from agentd.redaction import redact
from agentd.sdk import JobView
from agentd.server.job_text import headline
from agentd.server.sessions import Session
from agentd.wording import pieces, shortened, span, spelled

__all__ = [
    "REASON_LENGTH",
    "STYLE_HASH",
    "code_page",
    "error_page",
    "list_page",
    "question_page",
    "sign_in_page",
]

REFRESH_S = 5
REASON_LENGTH = 1000

STYLE = """
:root{color-scheme:light dark;--accent:#1d4ed8;--on:#fff;--quiet:#6b7280;--line:#8884;
--bad:#b91c1c;--good:#15803d}
@media(prefers-color-scheme:dark){:root{--accent:#93c5fd;--on:#111827;--quiet:#9ca3af;
--bad:#f87171;--good:#4ade80}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:0 auto;padding:0 1rem 4rem}
header{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;padding:.75rem 0;
border-bottom:1px solid var(--line)}
header span{margin-left:auto}
h1{font-size:1.35rem;line-height:1.3;overflow-wrap:anywhere}h2{font-size:1.05rem;margin:1.5rem 0 .25rem}
a{color:var(--accent)}.quiet{color:var(--quiet)}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem 0;border-bottom:1px solid var(--line);
overflow-wrap:anywhere}
th{font-weight:400;color:var(--quiet);width:11rem;padding-right:1rem}
td{font-variant-numeric:tabular-nums}
mark{background:none;color:var(--bad);font-family:ui-monospace,monospace;border:1px dotted}
code{font-family:ui-monospace,monospace;overflow-wrap:anywhere}
.said{padding:.75rem 1rem;border-left:4px solid var(--quiet);background:#8881}
.approved,.consumed{border-color:var(--good)}.denied,.wrong{border-color:var(--bad)}
label{display:block;margin:1rem 0 .25rem}
input,textarea{width:100%;font:inherit;padding:.5rem;border:1px solid var(--quiet);border-radius:.35rem;
background:Canvas;color:CanvasText}
button{font:inherit;min-height:2.75rem;padding:.5rem 1.5rem;margin:1rem .75rem 0 0;border-radius:.35rem;
border:1px solid var(--accent);background:var(--accent);color:var(--on);cursor:pointer}
button.deny{border-color:var(--bad);background:none;color:var(--bad)}
button.link{min-height:0;margin:0;padding:0;border:0;background:none;color:var(--accent);
text-decoration:underline}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
header form{margin:0}ul{list-style:none;padding:0}li{padding:.75rem 0;border-bottom:1px solid var(--line)}
@media(max-width:34rem){th,td{display:block;width:auto}th{border:0;padding-bottom:0}td{padding-top:0}
form>button{width:100%}header form>button{width:auto}}
"""
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


def list_page(waiting: Sequence[Mapping[str, Any]], session: Session) -> str:
    """What waits for a person, the newest first."""
    if not waiting:
        return _page("Nothing waits for approval", ["<p>New questions appear here.</p>"], session)
    items = "".join(f"<li>{_item(each)}" for each in waiting)
    many = "1 question waits" if len(waiting) == 1 else f"{len(waiting)} questions wait"
    return _page(f"{many} for approval", [f"<ul>{items}</ul>"], session)


def question_page(
    question: Mapping[str, Any], job: JobView, session: Session, problem: AgentdError | None = None
) -> str:
    """The facts of a question first, then the form that answers it, or what became of it.

    `problem` is why an answer to it did not count.
    """
    said, waits = told(question), question["state"] == "pending"
    live = not (job.ended or (job.service or {}).get("ready"))
    parts = [
        _problem(problem),
        "" if waits else _outcome(question, job),
        _rows(said.first),
        f"<p class=quiet>{_text(_sentence(said.compared))}</p>",
        _rows(said.changed),
        "<h2>What it is</h2>" if said.changed else "",
        _rows(said.facts),
        _answer_form(question, session) if waits else "",
    ]
    again = f"/approve/{question['id']}?again" if live and not waits and problem is None else ""
    return _page(said.title, parts, session, again=again)


def sign_in_page(next_: str, problem: str = "", *, subject: str = "", again: str = "") -> str:
    """How to be signed in; `subject` is the id that somebody wanted to see."""
    command = f"agentd open {subject}".rstrip()
    parts = [
        f"<p class='said wrong' role=alert>{_text(problem)}</p>" if problem else "",
        f"<p>Run <code>{_text(command)}</code> where agentd runs: it opens this page, signed in.",
        "<p>On a shared machine, paste your personal token of role <b>approve</b> instead:</p>",
        "<form method=post action=/login><label for=token>Token</label>",
        "<input id=token name=token type=password autocomplete=off spellcheck=false required>",
        f"{_hidden('next', next_)}<button>Sign in</button></form>",
    ]
    return _page("This browser is not signed in", parts, None, again=again, again_s=0)


def code_page(code: str, principal: str, next_: str) -> str:
    """One press away from being signed in: whatever follows links by itself does not use the code up."""
    parts = [
        "<form method=post action=/login>",
        f"{_hidden('code', code)}{_hidden('next', next_)}",
        f"<button autofocus>Sign in as {_text(principal)}</button></form>",
        "<p class=quiet>For 8 hours, or until this browser has not been used for one.</p>",
    ]
    return _page("Sign in to approve", parts, None)


def error_page(error: AgentdError, session: Session | None) -> str:
    return _page("That did not work", [_problem(error), "<p><a href=/approve>What waits</a></p>"], session)


# --- parts ----------------------------------------------------------------------------------


def _item(question: Mapping[str, Any]) -> str:
    facts = question["facts"]
    seconds, most = (facts.get("quote") or {}).get("seconds"), money(facts.get("max_micro_usd"))
    about = [
        f"takes about {span(seconds)}" if seconds else "",
        f"at most {most}" if most else "",
        f"{question['given']} of {question['people']} people" if question["people"] > 1 else "",
        f"asked by {question['requested_by']} {_ago(question['created_at'])} ago",
    ]
    title = _text(shortened(question["action"], 200))
    told_ = _text(", ".join(part for part in about if part))
    return f"<a href='/approve/{escape(question['id'])}'>{title}</a><br><span class=quiet>{told_}</span>"


def _outcome(question: Mapping[str, Any], job: JobView) -> str:
    who, why = question["decided_by"], question["reason"]
    late = question["state"] == "expired" and why == question["facts"].get("why", "")  # nothing else was said
    why = "" if late else why
    words = {
        "approved": f"Approved by {who}",
        "consumed": f"Approved by {who}",
        "denied": f"Denied by {who}",
        "expired": "Nobody answered in time" if late else "It does not stand any more",
    }[question["state"]]
    told_ = _text(f"{words}: {redact(why)}" if why else f"{words}.")
    again = job.approval
    asked = (
        f"<br>It was asked again: <a href='/approve/{escape(again)}'>{escape(again)}</a>"
        if again and again != question["id"]
        else ""
    )
    return (
        f"<p class='said {escape(question['state'])}' role=status>{told_}{asked}<br>"
        f"{_text(shortened(redact(headline(job))))}</p>"
    )


def _answer_form(question: Mapping[str, Any], session: Session) -> str:
    left = max(0.0, question["expires_at"] - time.time())
    more = question["people"] - question["given"]
    people = f"{more} more people have to approve it. " if more > 1 else ""
    return (
        f"<form method=post action='/approve/{escape(question['id'])}'>"
        f"{_hidden('form_key', session.form_key)}"
        "<label for=reason>Reason <span class=quiet>(may be left out; it is written down, and whoever asked"
        " is told why not)</span></label>"
        f"<textarea id=reason name=reason rows=2 maxlength={REASON_LENGTH}></textarea>"
        "<button name=verdict value=approve>Approve</button>"
        "<button name=verdict value=deny class=deny>Deny</button></form>"
        f"<p class=quiet>{people}Left alone, it stays open for another {span(left)}.</p>"
    )


def _problem(error: AgentdError | None) -> str:
    return f"<p class='said wrong' role=alert>{_text(redact(str(error)))}.</p>" if error is not None else ""


def _rows(rows: Mapping[str, str]) -> str:
    cells = "".join(f"<tr><th scope=row>{_text(name)}<td>{_text(value)}" for name, value in rows.items())
    return f"<table>{cells}</table>" if rows else ""


def _hidden(name: str, value: str) -> str:
    return f'<input type=hidden name={name} value="{escape(value)}">'


def _text(value: str) -> str:
    """Text as HTML; escapes for what is hidden in it are set off, so that no text can fake one."""
    return "".join(
        f"<mark>{escape(piece)}</mark>" if is_escape else escape(piece) for piece, is_escape in pieces(value)
    )


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(":") else ".")


def _ago(at: float) -> str:
    return span(max(0.0, time.time() - at))


def _page(
    title: str, parts: Iterable[str], session: Session | None, *, again: str = "", again_s: int = REFRESH_S
) -> str:
    refresh = f'<meta http-equiv=refresh content="{again_s}; url={escape(again)}">' if again else ""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"{refresh}<title>{escape(spelled(shortened(title, 80)))} · agentd</title>"
        f"<style>{STYLE}</style></head>"
        f"<body><header><a href=/approve>agentd</a>{_who(session)}</header>"
        f"<main><h1>{_text(title)}</h1>{''.join(parts)}</main></body></html>\n"
    )


def _who(session: Session | None) -> str:
    if session is None:
        return ""
    return (
        f"<span>{_text(session.caller.principal)}</span><form method=post action=/logout>"
        f"{_hidden('form_key', session.form_key)}<button class=link>Sign out</button></form>"
    )
