"""Prompts: files in the project, remembered by content once they were evaluated.

    name: tickets                          # evals/prompts/tickets.yaml
    description: asks for one JSON object
    system: You turn messages into tickets.
    template: "{input}"                    # {name} stands for a field of the row, as in suites
    examples:                              # few-shot turns; the fields of the template, and the answer
      - {input: "Where is my parcel?", output: '{"intent": "delivery"}'}

A prompt's digest is that of its name, system, template and examples: layout, comments and description do not
count. How a prompt is asked is `evaluate`'s affair, and which of two is better that of `compare`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from agentd.sdk import Context, DataError, NotFound, load_document, prompt_digest, tool

from .suites import PLACEHOLDER, Part, Suite

__all__ = [
    "PromptFile",
    "PromptVersion",
    "check_rows",
    "diff_prompts",
    "find_prompt",
    "list_prompts",
    "remember",
    "show_prompt",
]

KIND = "prompt"
SHORT = 12
"""Characters of a digest that tell versions apart where people read them."""


class Shot(Part):
    """A turn of each side: fields of the template, and the answer that is right for them."""

    model_config = Part.model_config | {"extra": "allow"}

    output: str


class PromptFile(Part):
    """The YAML, field by field."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    system: str = ""
    template: str = Field(min_length=1)
    examples: tuple[Shot, ...] = ()

    @property
    def content(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"description"})

    @property
    def digest(self) -> str:
        """SHA-256 of what a model is told by it."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()

    @property
    def turns(self) -> list[dict[str, str]]:
        """The examples as messages."""
        return [
            {"role": role, "content": text}
            for shot in self.examples
            for role, text in (
                ("user", _filled(self.template, shot.model_dump())),
                ("assistant", shot.output),
            )
        ]


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """A prompt as of one digest. `path` is its file, or where an earlier version is kept."""

    file: PromptFile
    path: Path

    @property
    def digest(self) -> str:
        return self.file.digest

    @property
    def ref(self) -> str:
        return f"{self.file.name}@{self.digest[:SHORT]}"

    @property
    def told(self) -> dict[str, Any]:
        """What a job is told of it, enough to remember it by."""
        return {"name": self.file.name, "digest": self.digest, "file": self.file.model_dump(mode="json")}


class PromptRow(BaseModel):
    prompt: str = Field(description="NAME@DIGEST, as evaluate takes it")
    name: str
    digest: str
    description: str = ""
    current: bool = Field(description="whether the file in evals/prompts/ holds this version now")
    reports: list[str] = Field(default=[], description="ids of the reports that were made with it")


class PromptList(BaseModel):
    prompts: list[PromptRow]


class PromptShown(PromptRow):
    path: str = Field(default="", description="the file that has this name now, whatever version it holds")
    system: str
    template: str
    examples: list[dict[str, Any]] = []


class PromptDiff(BaseModel):
    a: str
    b: str
    same: bool
    diff: str = Field(description="unified diff of system, template and examples; empty if they are the same")


Ref = Annotated[str, Field(description="NAME for the file as it is now, or NAME@DIGEST for a version")]


@tool(title="List prompts", result=PromptList, read_only=True, idempotent=True, listed=False)
async def list_prompts(ctx: Context) -> PromptList:
    """List prompts: files as they are now, then versions that were evaluated, each with its reports."""
    files = [_read(ctx, name) for name in ctx.plugins.names("evals/prompts", ".yaml")]
    now = {version.digest for version in files}
    kept = [version for version in _kept(ctx) if version.digest not in now]
    return PromptList(prompts=[_row(ctx, version, current=version.digest in now) for version in files + kept])


@tool(title="Show a prompt", result=PromptShown, read_only=True, idempotent=True, listed=False)
async def show_prompt(ctx: Context, *, prompt: Ref) -> PromptShown:
    """Show one version of a prompt, also one whose file was edited since it was evaluated."""
    version = find_prompt(ctx, prompt)
    names = ctx.plugins.names("evals/prompts", ".yaml")
    now = _read(ctx, version.file.name) if version.file.name in names else None
    row = _row(ctx, version, current=now is not None and now.digest == version.digest)
    file = version.file.model_dump(mode="json", include={"system", "template", "examples"})
    return PromptShown(**row.model_dump(), **file, path=str(now.path) if now else "")


@tool(title="Tell two prompts apart", result=PromptDiff, read_only=True, idempotent=True, listed=False)
async def diff_prompts(ctx: Context, *, a: Ref, b: Ref) -> PromptDiff:
    """Say line by line what differs between two prompts, or two versions of one."""
    one, two = find_prompt(ctx, a), find_prompt(ctx, b)
    lines = difflib.unified_diff(_lines(one.file), _lines(two.file), one.ref, two.ref, lineterm="")
    return PromptDiff(a=one.ref, b=two.ref, same=one.digest == two.digest, diff="\n".join(lines))


# --- finding and keeping --------------------------------------------------------------------


def find_prompt(ctx: Context, ref: str) -> PromptVersion:
    """The prompt `ref`: NAME for the file, NAME@DIGEST (six characters will do) for that version.

    Raises `NotFound`, or `DataError` with file, line and field.
    """
    name, _, digest = ref.partition("@")
    if not digest:
        return _read(ctx, name)
    known = [version for version in _kept(ctx) if version.file.name == name]
    if name in ctx.plugins.names("evals/prompts", ".yaml"):
        known.insert(0, _read(ctx, name))
    fitting = {version.digest: version for version in known if version.digest.startswith(digest)}
    if len(fitting) != 1 or len(digest) < 6:
        raise NotFound("single prompt", ref, [version.ref for version in known])
    return next(iter(fitting.values()))


def remember(ctx: Context, told: Mapping[str, Any]) -> None:
    """Keep a version by its content: it can be shown and evaluated after its file was edited."""
    path = ctx.scratch() / "prompt.json"
    path.write_text(json.dumps(told["file"], sort_keys=True, indent=1), encoding="utf-8")
    meta = {"digest": told["digest"], "system": prompt_digest(told["file"]["system"])}
    ctx.artifacts.add(KIND, path, name=told["name"], meta=meta)


def check_rows(version: PromptVersion, suite: Suite) -> None:
    """Raise `DataError` for a field of the template that a row of the suite does not have."""
    for row in (*suite.rows, *suite.redteam):
        for field in PLACEHOLDER.findall(version.file.template):
            if field not in row:
                raise DataError(
                    version.path,
                    f"{{{field}}} is not a field of row {row['id']!r} of {suite.name!r}",
                    line=_line(version.path, "template:"),
                    field="template",
                    hint=f"Fields there: {', '.join(sorted(row))}",
                )


def _read(ctx: Context, name: str) -> PromptVersion:
    path = ctx.plugins.find("evals", f"prompts/{name}.yaml")
    file = load_document(path, PromptFile)
    if file.name != name:
        raise DataError(
            path, f"is {file.name!r}", line=_line(path, "name:"), field="name", hint=f"Name it {name!r}"
        )
    for number, shot in enumerate(file.examples):
        for field in PLACEHOLDER.findall(file.template):
            if field not in shot.model_dump():
                raise DataError(
                    path,
                    f"has no {field!r}, which the template names",
                    line=_line(path, "examples:"),
                    field=f"examples.{number}",
                    hint=f"Add {field} to the example",
                )
    return PromptVersion(file, path)


def _kept(ctx: Context) -> list[PromptVersion]:
    """Every version that was evaluated, the newest first, each once."""
    kept = {each.meta["digest"]: each.path for each in reversed(ctx.artifacts.list(KIND))}
    return [
        PromptVersion(PromptFile.model_validate_json(path.read_text(encoding="utf-8")), path)
        for path in reversed(kept.values())
    ]


def _row(ctx: Context, version: PromptVersion, *, current: bool) -> PromptRow:
    made = [
        r.id for r in ctx.reports.list() if r.meta.get("prompt") == f"{version.file.name}@{version.digest}"
    ]
    return PromptRow(
        prompt=version.ref,
        name=version.file.name,
        digest=version.digest,
        description=version.file.description,
        current=current,
        reports=made,
    )


def _line(path: Path, key: str) -> int | None:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((number for number, line in enumerate(lines, 1) if line.startswith(key)), None)


def _lines(file: PromptFile) -> list[str]:
    shots = [json.dumps(shot.model_dump(), ensure_ascii=False, sort_keys=True) for shot in file.examples]
    parts = {"system": file.system, "template": file.template, "examples": "\n".join(shots)}
    return [f"{name}: {line}" for name, text in parts.items() for line in text.splitlines()]


def _filled(template: str, fields: Mapping[str, Any]) -> str:
    """As the recipe fills in a row: strings as they are, other values as JSON."""
    return PLACEHOLDER.sub(
        lambda match: (
            value if isinstance(value := fields[match[1]], str) else json.dumps(value, ensure_ascii=False)
        ),
        template,
    )
