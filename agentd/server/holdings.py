"""What the daemon has that can be read by address: each kind, how to list it, and how to read one of it.

``agentd://KIND`` is all of a kind, ``agentd://KIND/NAME`` one of it. This module knows the kernel and
addresses, and nothing of MCP. Whoever asks has role `view`; nothing here changes anything.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from agentd.errors import NotFound
from agentd.plugins import bundled_root
from agentd.redaction import redact
from agentd.sdk import JobView, Report
from agentd.server.job_text import headline
from agentd.server.ports import Caller, Kernel
from agentd.server.wire import dump

__all__ = ["SCHEME", "Entry", "Holdings", "Kind", "Text", "address"]

SCHEME = "agentd://"
JSON, MARKDOWN, HTML, YAML = "application/json", "text/markdown", "text/html", "application/yaml"
FORMATS = {"markdown": MARKDOWN, "html": HTML}
NEWEST = 100
JOURNAL_ENTRIES = 100


@dataclass(frozen=True, slots=True)
class Text:
    """What is read, without secrets."""

    mime: str
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that can be read: the last parts of its address, and a line about it."""

    path: str
    title: str
    mime: str = JSON


@dataclass(frozen=True, slots=True)
class Kind:
    """`template` is the address of one, with ``{variable}`` in it; "" where there is only the whole.

    `entries` are those worth showing in a list, `names` the values that the first variable takes.
    """

    title: str
    whole: Callable[[Caller], Awaitable[Text]]
    template: str = ""
    one_title: str = ""
    mime: str = JSON
    one: Callable[[str, Caller], Awaitable[Text]] | None = None
    entries: Callable[[Caller], Awaitable[Sequence[Entry]]] | None = None
    names: Callable[[Caller], Awaitable[Sequence[str]]] | None = None


def address(kind: str, *path: str) -> str:
    """``agentd://jobs/job-1``, with what is special in an address escaped."""
    return SCHEME + "/".join((kind, *(quote(part, safe="@") for part in path)))


class Holdings:
    """Everything of `kernel` that can be read. `kinds` stand in the order of a list."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.kinds: Mapping[str, Kind] = {
            "catalog": Kind("Models and aliases", self._catalog),
            "reports": Kind(
                "Reports: what was measured, the newest first",
                self._reports,
                "agentd://reports/{id}",
                "A report as JSON: scores with intervals, slices, what was run",
                JSON,
                self._report,
                self._report_entries,
                self._report_ids,
            ),
            "jobs": Kind(
                "Jobs, the newest first",
                self._jobs,
                "agentd://jobs/{id}",
                "A job: state, progress, quote, result, and what to do next",
                JSON,
                self._job,
                self._job_entries,
                self._job_ids,
            ),
            "runs": Kind(
                "Runs of plans and goals, the newest first",
                self._runs,
                "agentd://runs/{id}",
                "A run of a plan or goal, step by step; /steps/ID after it: one step, whole",
                JSON,
                self._run,
                self._run_entries,
                self._run_ids,
            ),
            "models": Kind(
                "Models and aliases by name",
                self._catalog,
                "agentd://models/{name}",
                "A model or an alias of the catalog",
                JSON,
                self._model,
                None,
                self._model_names,
            ),
            "collections": Kind(
                "Collections of documents that can be searched",
                self._collections,
                "agentd://collections/{name}",
                "A collection: embedder, number of documents and chunks",
                JSON,
                self._collection,
                self._collection_entries,
                self._collection_names,
            ),
            "plans": Kind(
                "Plans by name",
                self._plans,
                "agentd://plans/{name}",
                "A plan as YAML: what run_plan carries out",
                YAML,
                self._plan,
                self._plan_entries,
                self._plan_names,
            ),
            "ledger": Kind("What was spent and what is set aside", self._ledger),
            "journal": Kind(
                f"The last {JOURNAL_ENTRIES} entries of the journal",
                self._journal,
                "agentd://journal/{subject}",
                "What happened to one job, approval, model, alias …, and who decided it",
                JSON,
                self._journal_of,
                None,
                self._journal_subjects,
            ),
            "docs": Kind(
                "Documentation of agentd",
                self._docs,
                "agentd://docs/{page}",
                "A page of the documentation",
                MARKDOWN,
                self._doc,
                self._doc_entries,
                self._doc_names,
            ),
        }

    async def read(self, uri: str, caller: Caller) -> Text:
        """What stands at an address. Raises `NotFound` with the nearest addresses or names."""
        kind_name, _, rest = uri.removeprefix(SCHEME).partition("/")
        kind = self.kinds.get(kind_name)
        if not uri.startswith(SCHEME) or kind is None:
            raise NotFound("resource", uri, [address(name) for name in self.kinds])
        if not rest:
            return await kind.whole(caller)
        if kind.one is None:
            raise NotFound("resource", uri, [address(kind_name)])
        return await kind.one(rest, caller)

    async def datasets(self, caller: Caller) -> list[str]:
        """Names of checked data sets, the newest first."""
        return list(dict.fromkeys(each.name for each in self._kernel.artifacts.list("dataset")))

    async def suites(self, caller: Caller) -> list[str]:
        return self._kernel.plugins.names("evals", ".yaml")

    async def aliases(self, caller: Caller) -> list[str]:
        return [alias.name for alias in self._kernel.catalog.aliases()]

    # --- models ------------------------------------------------------------------------------

    async def _catalog(self, caller: Caller) -> Text:
        catalog = self._kernel.catalog
        return _json({"models": catalog.list(), "aliases": catalog.aliases()})

    async def _model(self, path: str, caller: Caller) -> Text:
        name, catalog = unquote(path), self._kernel.catalog
        for each in (*catalog.aliases(), *catalog.list()):
            if each.name == name:
                return _json(each)
        raise NotFound("model or alias", name, await self._model_names(caller))

    async def _model_names(self, caller: Caller) -> list[str]:
        return [each.name for each in (*self._kernel.catalog.aliases(), *self._kernel.catalog.list())]

    # --- jobs and runs -----------------------------------------------------------------------

    async def _jobs(self, caller: Caller) -> Text:
        return _json([_job_line(job) for job in self._kernel.seen_by(caller).jobs.list(limit=NEWEST)])

    async def _job(self, path: str, caller: Caller) -> Text:
        return _json(self._kernel.seen_by(caller).jobs.get(unquote(path)))

    async def _job_entries(self, caller: Caller) -> list[Entry]:
        return [Entry(job.id, headline(job)) for job in self._kernel.seen_by(caller).jobs.list(limit=NEWEST)]

    async def _job_ids(self, caller: Caller) -> list[str]:
        return [job.id for job in self._kernel.seen_by(caller).jobs.list(limit=NEWEST)]

    async def _runs(self, caller: Caller) -> Text:
        return _json(self._kernel.seen_by(caller).runs.list(limit=NEWEST))

    async def _run(self, path: str, caller: Caller) -> Text:
        run, _, step = unquote(path).partition("/steps/")
        runs = self._kernel.seen_by(caller).runs
        return _json(runs.step(run, step) if step else runs.view(run))

    async def _run_entries(self, caller: Caller) -> list[Entry]:
        runs = self._kernel.seen_by(caller).runs.list(limit=NEWEST)
        return [Entry(run["id"], f"{run['plan']} {run['id']}: {run['state']}") for run in runs]

    async def _run_ids(self, caller: Caller) -> list[str]:
        return [run["id"] for run in self._kernel.seen_by(caller).runs.list(limit=NEWEST)]

    # --- reports -----------------------------------------------------------------------------

    async def _reports(self, caller: Caller) -> Text:
        shown = ("id", "suite", "model", "label", "metric", "score", "low", "high", "n", "errors")
        return _json([report.model_dump(include=set(shown)) for report in self._kernel.reports.list()])

    async def _report(self, path: str, caller: Caller) -> Text:
        """``ID`` is the report as data, ``ID/markdown`` and ``ID/html`` are pages of it."""
        ref, _, form = path.partition("/")
        report = self._kernel.reports.get(unquote(ref))
        if not form:
            return _json(report)
        if form not in FORMATS:
            raise NotFound("format of a report", form, FORMATS)
        page = await self._kernel.calls.call("report_page", {"report": report.id, "format": form}, caller)
        return Text(FORMATS[form], redact(str(page.model_dump()["text"])))

    async def _report_entries(self, caller: Caller) -> list[Entry]:
        """Their pages in Markdown: what a person picks is read by a model."""
        reports = self._kernel.reports.list()
        return [Entry(f"{report.id}/markdown", _report_line(report), MARKDOWN) for report in reports]

    async def _report_ids(self, caller: Caller) -> list[str]:
        return [report.id for report in self._kernel.reports.list()]

    # --- collections -------------------------------------------------------------------------

    async def _collections(self, caller: Caller) -> Text:
        return _json(await self._collection_rows(caller))

    async def _collection(self, path: str, caller: Caller) -> Text:
        rows = {row["name"]: row for row in await self._collection_rows(caller)}
        if (name := unquote(path)) not in rows:
            raise NotFound("collection", name, rows, hint="" if rows else "Make one with ingest")
        return _json(rows[name])

    async def _collection_entries(self, caller: Caller) -> list[Entry]:
        rows = await self._collection_rows(caller)
        return [Entry(row["name"], f"{row['documents']} documents, {row['chunks']} chunks") for row in rows]

    async def _collection_names(self, caller: Caller) -> list[str]:
        return [row["name"] for row in await self._collection_rows(caller)]

    async def _collection_rows(self, caller: Caller) -> list[dict[str, Any]]:
        if "list_collections" not in self._kernel.calls.tools:
            return []
        found = await self._kernel.calls.call("list_collections", {}, caller)
        return found.model_dump(mode="json")["collections"]

    # --- plans -------------------------------------------------------------------------------

    async def _plans(self, caller: Caller) -> Text:
        return _json([address("plans", name) for name in await self._plan_names(caller)])

    async def _plan(self, path: str, caller: Caller) -> Text:
        name, names = unquote(path), await self._plan_names(caller)
        if name not in names:  # looked up in the list, so that no name leads out of the folder
            raise NotFound("plan", name, names)
        text = self._kernel.plugins.find("tools/plans", f"{name}.yaml").read_text(encoding="utf-8")
        return Text(YAML, redact(text))

    async def _plan_entries(self, caller: Caller) -> list[Entry]:
        return [Entry(name, f"Plan {name}", YAML) for name in await self._plan_names(caller)]

    async def _plan_names(self, caller: Caller) -> list[str]:
        return self._kernel.plugins.names("tools/plans", ".yaml")

    # --- records -----------------------------------------------------------------------------

    async def _ledger(self, caller: Caller) -> Text:
        return _json(self._kernel.seen_by(caller).ledger.summary())

    async def _journal(self, caller: Caller) -> Text:
        return _json(self._kernel.seen_by(caller).journal.tail(JOURNAL_ENTRIES))

    async def _journal_of(self, path: str, caller: Caller) -> Text:
        subject = unquote(path)
        entries = self._kernel.seen_by(caller).journal.tail(JOURNAL_ENTRIES, subject=subject)
        if not entries:
            known = await self._journal_subjects(caller)
            raise NotFound("entry of the journal about", subject, known)
        return _json(entries)

    async def _journal_subjects(self, caller: Caller) -> list[str]:
        jobs, runs = await self._job_ids(caller), await self._run_ids(caller)
        return [*jobs, *runs, *await self._model_names(caller)]

    # --- documentation -----------------------------------------------------------------------

    async def _docs(self, caller: Caller) -> Text:
        lines = [f"- [{title}]({address('docs', name)})" for name, title in _doc_titles().items()]
        return Text(MARKDOWN, "\n".join(["# Documentation of agentd", "", *lines, ""]))

    async def _doc(self, path: str, caller: Caller) -> Text:
        name, titles = unquote(path), _doc_titles()
        if name not in titles:
            raise NotFound("page of the documentation", name, titles)
        return Text(MARKDOWN, _doc_file(name).read_text(encoding="utf-8"))

    async def _doc_entries(self, caller: Caller) -> list[Entry]:
        return [Entry(name, f"Documentation: {title}", MARKDOWN) for name, title in _doc_titles().items()]

    async def _doc_names(self, caller: Caller) -> list[str]:
        return list(_doc_titles())


def _doc_file(name: str) -> Path:
    return bundled_root() / "docs" / f"{name}.md"


def _doc_titles() -> dict[str, str]:
    """The pages that are shipped, by name: the first line of each."""
    titles: dict[str, str] = {}
    for path in sorted((bundled_root() / "docs").glob("*.md")):
        with path.open(encoding="utf-8") as page:
            titles[path.stem] = page.readline().lstrip("# ").strip()
    return titles


def _job_line(job: JobView) -> dict[str, Any]:
    return {"id": job.id, "tool": job.tool, "state": job.state, "headline": headline(job)}


def _report_line(report: Report) -> str:
    named = f"{report.model} ({report.label})" if report.label else report.model
    interval = f"{report.score:.3f} ({report.low:.3f} to {report.high:.3f})"
    return f"{named} on {report.suite}: {report.metric} {interval}"


def _json(value: Any) -> Text:
    return Text(JSON, dump(redact(json.loads(dump(value)))))
