"""What advice is given on: the user's own numbers, and what is assumed where there are none.

A number is given plainly, or as ``{value, source, as_of}`` to say where it is from. What nobody gave is
looked up where its field says (catalog, price table, reports) or assumed: the figure and the reason stand
in the field itself, and in every answer. Nothing here computes.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

__all__ = [
    "Gpu",
    "Host",
    "Known",
    "Limits",
    "Origin",
    "Part",
    "Retrieval",
    "Situation",
    "Tokens",
    "Training",
    "Volume",
    "exact",
    "numbers",
]

Origin = Literal["stated", "catalog", "price table", "report", "job", "assumed"]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Given(Part):
    """A number that somebody stated, with where it is from."""

    value: float = Field(allow_inf_nan=False)
    source: str = Field(default="the caller", description="where it is from")
    as_of: datetime.date | None = Field(default=None, description="the day it was right")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        number = isinstance(given, (int, float)) and not isinstance(given, bool)
        return {"value": given} if number else given


@dataclass(frozen=True, slots=True)
class Known:
    """A number that is used, exactly as it was written, and how it came here."""

    value: Fraction
    origin: Origin
    source: str
    as_of: datetime.date | None = None


def exact(value: float) -> Fraction:
    """The decimal that was written, not the binary number next to it."""
    return Fraction(repr(value))


def _not_negative(given: Given) -> Given:
    if given.value < 0:
        raise ValueError(f"should be 0 or more, not {given.value:g}")
    return given


def _positive(given: Given) -> Given:
    if given.value <= 0:
        raise ValueError(f"should be above 0, not {given.value:g}")
    return given


def _share(given: Given) -> Given:
    if given.value > 1:
        raise ValueError(f"is a share, at most 1, not {given.value:g}")
    return given


Amount = Annotated[Given, AfterValidator(_not_negative)]
Positive = Annotated[Given, AfterValidator(_positive)]
Share = Annotated[Given, AfterValidator(_not_negative), AfterValidator(_share)]
PositiveShare = Annotated[Given, AfterValidator(_positive), AfterValidator(_share)]


def assumed(value: float, because: str, description: str, *, most: float | None = None) -> Any:
    """A number with a stand-in; `because` is why that one. `most` is the largest that makes sense."""
    more: dict[str, Any] = {"assumed": value, "because": because, "most": most}
    return Field(default=None, description=description, json_schema_extra=more)


def looked_up(where: str, description: str) -> Any:
    """A number that is found elsewhere, or else does without."""
    return Field(default=None, description=description, json_schema_extra={"found": where})


class Volume(Part):
    """How much is asked."""

    monthly_users: Amount = Field(description="people, or programs, that use it in a month")
    requests_per_user: Amount = Field(description="requests of one of them in a month")


class Tokens(Part):
    """One request, in tokens."""

    system: Amount | None = assumed(
        300, "a page of instructions; count yours", "instructions and examples that stand in every prompt"
    )
    question: Amount | None = assumed(100, "a short message; count yours", "what the user says")
    context: Amount | None = assumed(
        1500, "five passages of 300 tokens", "passages that retrieval puts into the prompt"
    )
    output: Amount | None = assumed(200, "a paragraph; count yours", "the answer")
    reasoning: Amount | None = assumed(
        0, "no reasoning model is counted unless you say so", "reasoning tokens, billed as output"
    )
    knowledge: Amount | None = assumed(
        0,
        "answers need no documents of yours unless you say so",
        "all of the documents that answers depend on; 0: answers need none",
    )


class Host(Part):
    """A model, and what it takes to have it answer: behind an API, or on machines paid by the hour."""

    model: str = Field(
        default="", description="name in the catalog, for its prices, context, residency, reports"
    )
    self_hosted: bool | None = Field(
        default=None,
        description="paid by GPU hours; by default unless a price a token is stated or it has an endpoint",
    )
    residency: str = Field(
        default="", description='where texts are processed ("eu"); by default as the catalog says, or "here"'
    )
    input_micro_usd_per_mtok: Amount | None = looked_up("catalog", "price of a million input tokens")
    output_micro_usd_per_mtok: Amount | None = looked_up("catalog", "price of a million output tokens")
    cached_micro_usd_per_mtok: Amount | None = looked_up(
        "catalog", "price of a million input tokens that were cached; as other input by default"
    )
    cached_share: Share | None = assumed(
        0,
        "no caching is counted on unless you measured it",
        "how much of what stands in every prompt is read from the endpoint's cache",
        most=1,
    )
    usd_per_month: Amount | None = assumed(
        0,
        "no fee is known",
        "what having it costs in a month whatever is asked: an endpoint's fee, a licence",
    )
    context: Positive | None = looked_up("catalog", "context length in tokens; not checked if nobody knows")
    latency_s: Amount | None = looked_up(
        "the newest report: 95th percentile", "how long an answer takes, at the volume that is meant"
    )
    output_tokens_per_s: Positive | None = assumed(
        1500,
        "a model of 8 billion parameters on one data-centre GPU, many requests at a time; not measured",
        "tokens a replica writes in a second at the latency that is wanted",
    )
    input_tokens_per_s: Positive | None = assumed(
        15000,
        "reading a prompt is some ten times as fast as writing; not measured",
        "tokens of prompts that a replica reads in a second",
    )
    gpus: Positive | None = assumed(1, "the model fits one GPU", "GPUs of one replica")
    min_replicas: Amount | None = assumed(
        1, "something has to be there when the first request comes", "replicas that run all month"
    )
    utilisation: PositiveShare | None = assumed(
        0.4,
        "traffic has peaks, nights and weekends",
        "share of the paid GPU hours in which it is busy",
        most=1,
    )
    system: Amount | None = looked_up("`tokens`", "if with this model it is another number")
    question: Amount | None = looked_up("`tokens`", "the same")
    context_tokens: Amount | None = looked_up("`tokens.context`", "the same, of passages")
    output: Amount | None = looked_up("`tokens`", "the same")
    reasoning: Amount | None = looked_up("`tokens`", "the same")


class Gpu(Part):
    """Machines by the hour, for whatever is self-hosted or trained."""

    accelerator: str = Field(default="cuda", description="its name in the price table")
    usd_per_hour: Amount | None = looked_up("price table", "an hour of one GPU")
    hours_per_month: Positive | None = assumed(730, "365 × 24 / 12", "hours of a month")


class Retrieval(Part):
    """Finding passages: index, embedder, searches."""

    searches_per_request: Amount | None = assumed(1, "one search a question", "searches of one request")
    usd_per_1000_searches: Amount | None = assumed(
        0, "an embedder of your own costs by the month, not by the search", "what a thousand searches cost"
    )
    usd_per_month: Amount | None = looked_up(
        "price table: an hour of `cpu` all month", "index and embedder, and taking in what changes"
    )
    latency_s: Amount | None = assumed(
        0.1, "one search on a machine of your own", "what it adds to an answer"
    )
    residency: str = Field(default="here", description="where questions and documents are searched")


class Training(Part):
    """Making the tuned model, again and again."""

    usd_per_run: Amount | None = looked_up(
        "what the job that made it cost, else GPU hours × price", "one training, evaluation included"
    )
    gpu_hours: Amount | None = assumed(
        8, "an adapter for a model of 8 billion parameters, with its evaluations", "GPU hours of one training"
    )
    people_usd_per_run: Amount | None = assumed(
        0,
        "people's time is not counted unless you say so",
        "gathering and checking examples for one training",
    )
    months_between_runs: Positive | None = assumed(
        3, "tasks and base models move about every quarter", "months until it is trained again"
    )
    examples: Amount | None = looked_up("nowhere", "examples of good answers that there are")
    examples_needed: Amount | None = assumed(
        500, "narrow tasks were learned from about so many rows (docs/training.md)", "examples it takes"
    )
    residency: str = Field(default="", description="where it is trained; by default where the model answers")


class Limits(Part):
    """What an option has to keep to, and what is worth a change."""

    latency_s: Positive | None = looked_up("nowhere", "the longest that an answer may take")
    questions_stay_in: list[str] = Field(
        default=[], description='only places where questions may be processed ("here", "eu"); empty: anywhere'
    )
    documents_stay_in: list[str] = Field(default=[], description="the same, for documents")
    examples_stay_in: list[str] = Field(default=[], description="the same, for training examples")
    fresh_within_days: Positive | None = looked_up(
        "nowhere", "how soon a change of the documents has to show in answers"
    )
    score: Share | None = looked_up("nowhere", "the score on the suite that is good enough")
    worth_usd_per_month: Amount | None = assumed(
        500,
        "about a day of somebody's time a month goes into each part that has to be looked after",
        "saving below which a less simple option is not worth it",
    )
    price_days: Amount | None = assumed(
        180, "the default of agentd.toml", "stated prices older than so many days are in doubt; 0: never"
    )


class Situation(Part):
    """All of it, as one file of YAML may state it."""

    volume: Volume
    tokens: Tokens = Tokens()
    general: Host = Field(default=Host(), description="the model asked as it is")
    tuned: Host = Field(default=Host(), description="the fine-tuned one")
    gpu: Gpu = Gpu()
    retrieval: Retrieval = Retrieval()
    training: Training = Training()
    limits: Limits = Limits()


def numbers(situation: Situation) -> Iterator[tuple[str, FieldInfo, Given | None]]:
    """Every number there is a place for, as ``group.name``, in the order of the fields."""
    for group in Situation.model_fields:
        part: BaseModel = getattr(situation, group)
        for name, info in type(part).model_fields.items():
            value = getattr(part, name)
            if info.json_schema_extra is not None or isinstance(value, Given):
                yield f"{group}.{name}", info, value
