"""What the words of a call stand for at this moment: models, aliases, reports, artifacts, files.

A call says "promote small to support"; whoever approves it means the model and the report that are
called so now. Each is bound with a digest of its own, so that another one under the same name is
noticed. Names that stand for nothing bind nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path

from agentd import sdk
from agentd.policy.digests import digest_file, digest_value

__all__ = ["digests_of_files", "files_named", "named_by"]


def named_by(
    words: Set[str], catalog: sdk.Catalog, reports: sdk.Reports, artifacts: sdk.Artifacts
) -> dict[str, str]:
    """What is called by one of `words` → digest. A model comes with its base, an alias with its models."""
    found: dict[str, str] = {}
    aliases = {alias.name: alias for alias in catalog.aliases() if alias.name in words}
    for alias in aliases.values():
        found[f"alias {alias.name!r}"] = digest_value(alias.weights)
    models = {model.name: model for model in catalog.list()}
    waiting = {*words, *(name for alias in aliases.values() for name in alias.weights)} & models.keys()
    while waiting:
        model = models[waiting.pop()]
        found[f"model {model.name!r}"] = digest_value(model.model_dump(mode="json"))
        if model.base in models and f"model {model.base!r}" not in found:
            waiting.add(model.base)
    for report in _reports(words, reports):
        found[f"report {report.id!r}"] = digest_value(report.model_dump(mode="json"))
    for artifact in reversed(artifacts.list()):  # of several with one name the newest counts
        for word in words & {artifact.id, artifact.name}:
            found[f"artifact {word!r}"] = digest_value(artifact.digest)
    return found


def files_named(words: Iterable[str], cwd: Path, reports: sdk.Reports) -> dict[str, Path]:
    """The files that a call reads by itself: those its words name, and the rows of its reports."""
    found: dict[str, Path] = {}
    for word in words:
        try:
            path = cwd / Path(word).expanduser()
            if path.is_file():
                found[f"file {word!r}"] = path
        except (OSError, ValueError, RuntimeError):
            continue  # not a path: too long, or with a home that nobody has
    for report in _reports(set(words), reports):
        if report.rows.is_file():
            found[f"rows of report {report.id!r}"] = report.rows
    return found


def digests_of_files(files: dict[str, Path]) -> dict[str, str]:
    """Of each file's content; one that has gone since has none."""
    return {name: digest_file(path) if path.is_file() else "" for name, path in files.items()}


def _reports(words: Set[str], reports: sdk.Reports) -> list[sdk.Report]:
    """The reports that are named by id, label or ``model@suite``, of several the newest."""
    found: dict[str, sdk.Report] = {}
    for report in reversed(reports.list()):
        for word in words & {report.id, report.label, f"{report.model}@{report.suite}"}:
            found[word] = report
    return list(found.values())
