"""What an approval is bound to: every part of exactly what would run, with a digest of its own.

`Binding.action` is what somebody says yes or no to, and what a denial sticks to. `Binding.asked` is
who asked, from where, and what was shown; it is bound as well, but asking in another way is no new
action. Both must still be the same at the launch, and comparing them names what is not. Nothing
here reads a file, a store or a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentd.policy.digests import digest_value
from agentd.store.jobs import JobRow

__all__ = [
    "COST",
    "DIGEST",
    "RULES",
    "WORDS",
    "Binding",
    "action_of",
    "asked_of",
    "listed",
    "recorded",
    "words_of",
]

RULES, COST, DIGEST = "rules", "cost", "digest"
WORDS = {
    "max_micro_usd": COST,
    "recipe_digest": "text of the recipe",
    "environment": "environment of the recipe",
    "timeout_s": "time limit",
    "needs": "services it needs",
    "gateway": "use of the gateway",
    "tokens_micro_usd": "money for requests to models",
    "service": "service",
}
"""What the fields of a stored launch are called; a field without an entry goes by its own name."""

_GROUPS = {"spec": "parameter", "env": "variable", "input_digests": "input"}
_SHOWN = {  # of a launch: where things were found, and what was shown
    "recipe_path": "path of the recipe",
    "inputs": "paths of the inputs",
    "title": "title of the launch",
    "quote": "quote of the launch",
}


class Binding(BaseModel):
    """Part → digest. `most` is what it may cost at present prices, in micro-USD."""

    model_config = ConfigDict(frozen=True)

    action: dict[str, str] = {}
    asked: dict[str, str] = {}
    most: int = 0

    @property
    def digest(self) -> str:
        """Stands for the action."""
        return digest_value(self.action)

    def changed(self, now: Binding) -> list[str]:
        """The names of the parts that differ, came or went."""
        was, are = self.asked | self.action, now.asked | now.action
        return sorted(name for name in was.keys() | are.keys() if was.get(name) != are.get(name))


def action_of(
    tool: str, program: str, rules: str, arguments: Mapping[str, Any], named: Mapping[str, str],
    launch: Mapping[str, Any] | None, cwd: Path,
) -> dict[str, str]:  # fmt: skip
    """The parts of an action. `named` are the models, reports and files its words stand for.

    An argument that names an input stands for the input's content, however the path is spelled. A
    stored launch that was tampered with is taken as it is: its parts are others, whatever their shape.
    """
    inputs = (launch or {}).get("inputs")
    paths = {str(path): name for name, path in inputs.items()} if isinstance(inputs, Mapping) else {}
    parts: dict[str, Any] = {"tool": tool, "program": program, RULES: rules, **named}
    for name, value in arguments.items():
        same = paths.get(str(_resolved(cwd, value))) if isinstance(value, str) and paths else None
        parts[f"argument {name!r}"] = {"input": same} if same else value
    for field, value in (launch or {}).items():
        if field in _GROUPS and isinstance(value, Mapping):
            group = _GROUPS[field]
            parts |= {f"{group} {name!r}": one for name, one in value.items()} or {f"{group}s": None}
        elif field not in _SHOWN:
            parts[WORDS.get(field, field)] = value
    return {name: digest_value(value) for name, value in parts.items()}


def asked_of(job: JobRow) -> dict[str, str]:
    """Who asked for a job, from where, and what was shown of it."""
    launch = job.launch or {}
    parts: dict[str, Any] = {
        "principal": job.principal,
        "role": job.role,
        "surface": job.surface,
        "project": job.project,
        "folder of the caller": str(job.cwd),
        "title": job.title,
        "quote": job.quote.model_dump(mode="json"),
        "arguments as given": job.arguments,
        "timing key": job.timing_key,
        "names it serves": job.serves,
        DIGEST: job.digest,
    }
    if job.taint:
        parts["what led to it"] = job.taint
    parts |= {words: launch[name] for name, words in _SHOWN.items() if name in launch}
    return {name: digest_value(value) for name, value in parts.items()}


def recorded(binding: Binding) -> Binding:
    """As it will be once the job has been given the binding's digest."""
    return binding.model_copy(update={"asked": {**binding.asked, DIGEST: digest_value(binding.digest)}})


def listed(parts: list[str]) -> str:
    """Parts as the beginning of a sentence: ``the cost, the time limit were``."""
    named = [f"the {name}" for name in parts]
    return f"{', '.join(named)} {'was' if len(named) == 1 else 'were'}"


def words_of(value: Any) -> set[str]:
    """Every text in arguments or a spec that could be the name of something."""
    if isinstance(value, str):
        return {value} if 0 < len(value) <= 1024 and value.isprintable() else set()
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return {word for one in inner for word in words_of(one)}


def _resolved(cwd: Path, text: str) -> Path | None:
    """Where a text would lie if it were a path; None when it cannot be one."""
    try:
        return (cwd / Path(text).expanduser()).resolve()
    except (OSError, ValueError, RuntimeError):
        return None
