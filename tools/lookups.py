"""Where the numbers of a situation come from that nobody stated: catalog, price table, reports, jobs.

What is found keeps its source and date; what stays a stand-in, or has no date, is told as missing.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

from agentd.sdk import Context, InputError, Model, NotFound, Report

from .costs import OPTIONS, SIDES, Facts, Option, Side, retrieves, side_of
from .situation import Host, Known, Situation, exact, numbers

__all__ = ["Found", "look_up"]

PRICES = ("input_micro_usd_per_mtok", "output_micro_usd_per_mtok", "cached_micro_usd_per_mtok")


@dataclass(slots=True)
class Found:
    """Numbers with their sources, what is not a number, and what is doubtful (name -> why)."""

    situation: Situation
    numbers: dict[str, Known] = field(default_factory=dict[str, Known])
    models: dict[Side, Model] = field(default_factory=dict[Side, Model])
    self_hosted: set[Side] = field(default_factory=set[Side])
    reports: dict[Option, Report] = field(default_factory=dict[Option, Report])
    doubts: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def facts(self) -> Facts:
        known = {name: number.value for name, number in self.numbers.items()}
        return Facts(known, frozenset(self.self_hosted))

    def place(self, side: Side) -> str:
        """Where a model processes texts; "" where nobody says."""
        host: Host = getattr(self.situation, side)
        if host.residency:
            return host.residency
        model = self.models.get(side)
        here = side in self.self_hosted and not (model and model.endpoint)
        return (model.residency if model else "") or ("here" if here else "")


def look_up(ctx: Context, situation: Situation, suite: str, reports: Mapping[str, str]) -> Found:
    """Raises `InputError` for a model behind an API whose price nobody knows, `NotFound` for names."""
    found = Found(situation)
    for side in SIDES:
        _host(ctx, found, side)
    _reports(ctx, found, suite, reports)
    for name, info, given in numbers(situation):
        more = cast("dict[str, Any]", info.json_schema_extra or {})
        if given is not None:
            found.numbers[name] = Known(exact(given.value), "stated", given.source, given.as_of)
        elif more.get("assumed") is not None:
            found.numbers[name] = Known(exact(more["assumed"]), "assumed", str(more["because"]))
    _prices(ctx, found)
    _measured(ctx, found)
    for side in SIDES:
        _only_what_is_used(found, side)
    return found


def _host(ctx: Context, found: Found, side: Side) -> None:
    host: Host = getattr(found.situation, side)
    if host.model:
        found.models[side] = ctx.catalog.get(host.model)
    model = found.models.get(side)
    priced = host.input_micro_usd_per_mtok is not None or host.output_micro_usd_per_mtok is not None
    remote = priced or (model is not None and bool(model.endpoint))
    hosted = host.self_hosted if host.self_hosted is not None else not remote
    if side == "general" and not (host.model or priced or host.self_hosted):
        raise InputError(
            "general: nobody said which model is asked",
            hint="Set general.model to one of the catalog, state its prices, or set general.self_hosted",
        )
    if hosted and priced:
        raise InputError(
            f"{side}: it is self-hosted and has a price a token",
            hint=f"Leave out {side}.self_hosted, or the prices",
        )
    if hosted:
        found.self_hosted.add(side)


def _reports(ctx: Context, found: Found, suite: str, named: Mapping[str, str]) -> None:
    """Reports that measure an option: those named, else the newest of its model on the suite."""
    for name in named.keys() - set(OPTIONS):
        raise InputError(f"reports: {name!r} is no option", hint=f"Options: {', '.join(OPTIONS)}")
    found.reports |= {option: ctx.reports.get(named[option]) for option in OPTIONS if option in named}
    for option in OPTIONS:
        model = found.models.get(side_of(option))
        if suite and model and option not in found.reports and not retrieves(option):
            every = (each for each in ctx.reports.list() if each.suite == suite and each.model == model.name)
            if newest := next(every, None):
                found.reports[option] = newest


def _prices(ctx: Context, found: Found) -> None:
    for side in SIDES:
        if side not in found.self_hosted:
            _tokens(ctx, found, side)
        model = found.models.get(side)
        if model and model.context and f"{side}.context" not in found.numbers:
            found.numbers[f"{side}.context"] = Known(Fraction(model.context), "catalog", model.name)
    _hour(ctx, found, found.situation.gpu.accelerator, "gpu.usd_per_hour", Fraction(1))
    _hour(ctx, found, "cpu", "retrieval.usd_per_month", found.numbers["gpu.hours_per_month"].value)
    today = datetime.datetime.now(datetime.UTC).date()
    for name, known in found.numbers.items():
        if known.origin == "stated" and "usd" in name and not name.startswith("limits."):
            _dated(found, name, known, today)


def _tokens(ctx: Context, found: Found, side: Side) -> None:
    model = found.models.get(side)
    for name in PRICES:
        price: int | None = getattr(model, name) if model else None
        if f"{side}.{name}" not in found.numbers and price is not None and model is not None:
            found.numbers[f"{side}.{name}"] = Known(
                Fraction(price), "catalog", model.name, model.prices_as_of
            )
            if doubt := ctx.price_doubt(model):
                found.doubts[f"{side}.{name}"] = doubt
    for name in PRICES[:2]:
        if f"{side}.{name}" in found.numbers:
            continue
        if model is None or model.price_unknown:
            who = repr(model.name) if model else "it"
            raise InputError(
                f"{side}.{name}: what {who} costs is not known",
                hint="State it, or set it in agentd.toml; 0 is free",
            )
        found.numbers[f"{side}.{name}"] = Known(Fraction(0), "catalog", f"{model.name} states no price")


def _hour(ctx: Context, found: Found, accelerator: str, name: str, hours: Fraction) -> None:
    if name in found.numbers:
        return
    price = ctx.hour_price(accelerator)
    if price is None:
        raise InputError(
            f"{name}: the price table has no hour of {accelerator!r}",
            hint="State it, or add it to the price table",
        )
    value = exact(price.usd_per_hour) * hours
    found.numbers[name] = Known(value, "price table", f"{accelerator}: {price.source}", price.as_of)
    if price.doubt:
        found.doubts[name] = price.doubt


def _dated(found: Found, name: str, known: Known, today: datetime.date) -> None:
    most = found.numbers["limits.price_days"].value
    if not known.value:
        return
    if known.as_of is None:
        found.doubts[name] = "the price has no date"
    elif 0 < most < (age := (today - known.as_of).days):
        found.doubts[name] = f"the price is of {known.as_of}, {age} days ago"


def _measured(ctx: Context, found: Found) -> None:
    """Latency, speed and length of answers from reports; what a tuned model's job cost."""
    plain: dict[Option, Side] = {"prompt": "general", "fine_tune": "tuned"}
    for option, side in plain.items():
        report = found.reports.get(option)
        if report is None:
            continue
        _from_report(found, report, f"{side}.latency_s", report.meta.get("p95_s"))
        _from_report(found, report, f"{side}.output_tokens_per_s", report.meta.get("tokens_per_s"))
        if report.n and (tokens := report.meta.get("output_tokens")):
            written = float(tokens) / (report.n + report.errors)
            name = "tokens.output" if side == "general" else "tuned.output"
            _from_report(found, report, name, round(written, 3))
    model = found.models.get("tuned")
    if model and model.source.startswith("job:") and "training.usd_per_run" not in found.numbers:
        try:
            job = ctx.jobs.get(model.source.removeprefix("job:"))
        except NotFound:
            return
        if job.micro_usd is not None:
            cost = Fraction(job.micro_usd, 1_000_000)
            found.numbers["training.usd_per_run"] = Known(cost, "job", f"{job.id}, {job.title}")


def _from_report(found: Found, report: Report, name: str, value: float | None) -> None:
    """A measured figure in place of a stand-in; never of one that somebody stated."""
    known = found.numbers.get(name)
    if value and (known is None or known.origin == "assumed"):
        found.numbers[name] = Known(exact(float(value)), "report", report.id)


def _only_what_is_used(found: Found, side: Side) -> None:
    """Speeds of an API, and prices a token of one's own GPUs, play no part."""
    unused = (
        PRICES
        if side in found.self_hosted
        else ("output_tokens_per_s", "input_tokens_per_s", "gpus", "min_replicas", "utilisation")
    )
    for name in unused:
        found.numbers.pop(f"{side}.{name}", None)
        found.doubts.pop(f"{side}.{name}", None)
