"""Workflows that a person picks in their client, as MCP prompts.

Each names the tools and arguments as they are called, tells where to stop and ask, and leaves out what
the tools say of themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mcp_types as types
from mcp.shared.exceptions import MCPError

from agentd.errors import NotFound
from agentd.server.asker import Asker, Context

__all__ = ["PROMPTS", "Argument", "Prompt", "Prompts"]


@dataclass(frozen=True, slots=True)
class Argument:
    """`source` says what may complete it (`completion.Completions`); `default` makes it optional."""

    name: str
    description: str
    source: str = ""
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` has ``{argument}`` where the argument goes."""

    title: str
    description: str
    arguments: tuple[Argument, ...]
    text: str


class Prompts:
    """The handlers of ``prompts/…``. Each asks for role `view`."""

    def __init__(self, caller_of: Asker) -> None:
        self._caller_of = caller_of

    async def listing(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        self._caller_of(ctx)
        return types.ListPromptsResult(prompts=[_described(name, each) for name, each in PROMPTS.items()])

    async def get(self, ctx: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        self._caller_of(ctx)
        prompt = PROMPTS.get(params.name)
        if prompt is None:
            raise MCPError(types.INVALID_PARAMS, str(NotFound("prompt", params.name, PROMPTS)))
        text = prompt.text.format(**_filled(params.name, prompt, params.arguments or {}))
        message = types.PromptMessage(role="user", content=types.TextContent(text=text))
        return types.GetPromptResult(description=prompt.description, messages=[message])


def _filled(name: str, prompt: Prompt, given: Mapping[str, str]) -> dict[str, str]:
    known = {each.name: each for each in prompt.arguments}
    for argument in given:
        if argument not in known:
            raise MCPError(types.INVALID_PARAMS, str(NotFound(f"argument of {name}", argument, known)))
    needed = [each.name for each in prompt.arguments if each.default is None]
    if missing := [argument for argument in needed if not given.get(argument)]:
        raise MCPError(types.INVALID_PARAMS, f"{name} needs {' and '.join(missing)}")
    return {each.name: given.get(each.name) or each.default or "" for each in prompt.arguments}


def _described(name: str, prompt: Prompt) -> types.Prompt:
    arguments = [
        types.PromptArgument(name=each.name, description=each.description, required=each.default is None)
        for each in prompt.arguments
    ]
    return types.Prompt(name=name, title=prompt.title, description=prompt.description, arguments=arguments)


PROMPTS: Mapping[str, Prompt] = {
    "start_with_rag": Prompt(
        "Start with RAG",
        "Index documents, check that questions are answered from them, and measure how well.",
        (
            Argument("path", "folder, file or pattern of documents"),
            Argument("collection", "name of the index", "collection", "default"),
            Argument(
                "question", "a question they should answer", default="three questions you make up from them"
            ),
        ),
        """\
Make the documents in {path} answerable, in collection {collection}.
1. Call list_models. If minilm-l6 is not there: get_model source=minilm-l6, then job_wait. Downloading may \
need a person's yes; if the job is in waiting_approval, tell them its `next` and stop.
2. ingest path={path} collection={collection}, then job_wait job=ID until its state is final. Report files \
it could not read; if most of them failed, stop and ask.
3. search query=… collection={collection} with {question}: do the passages hold the answer?
4. answer question=… collection={collection}. Quote its citations. If it abstains, say what is `missing`; \
never fill the gap from your own knowledge.
5. Say which questions were answered, which not, and what documents would mend that. Ask before ingesting \
more.""",
    ),
    "finetune_and_compare": Prompt(
        "Fine-tune and compare",
        "Train a LoRA on a data set and say, with an interval, whether it is worth having.",
        (
            Argument("data", "path of a JSONL data set, or name of a checked one", "data"),
            Argument("base", "catalog name of the base model", "model"),
            Argument("suite", "evaluation suite", "suite", "SUITE"),
        ),
        """\
Find out whether fine-tuning {base} on {data} is worth it, measured on {suite}.
1. check_dataset path={data} suite={suite}, then job_wait. If rows are wrong or leak from the suite, \
report and stop. If no suite is named, ask for one: held-out rows that are never trained on.
2. What is there to beat: baseline suite={suite} dataset=DATASET, and {base} as it is: serve model={base}, \
job_wait, then evaluate suite={suite} model={base} constrained=true. If one of them is good enough, say so \
and stop.
3. quote tool=finetune with the arguments you mean to use; tell time and money. Then finetune model={base} \
dataset=DATASET suite={suite}. In waiting_approval: tell the person its `next` and stop. Never work around \
it.
4. job_wait until it has ended; on failure read job_logs and report. serve the new model, then evaluate it \
as in 2.
5. compare candidate=NEW baseline=BEST_OF_STEP_2.
Report both scores with intervals, what it cost, and the verdict in its own words (better, not worse, \
worse, inconclusive). Ask before promote, and stop_service what you served.""",
    ),
    "cut_cost_of_alias": Prompt(
        "Cut the cost of an alias",
        "Find a cheaper model for an alias that is shown not to be worse.",
        (
            Argument("alias", "the alias whose traffic should cost less", "alias"),
            Argument("suite", "suite that stands for its traffic", "suite"),
            Argument("margin", "loss of score that would be acceptable", default="the suite's own margin"),
        ),
        """\
Make alias {alias} cheaper without making it worse on {suite} (margin: {margin}).
1. list_models: what {alias} points at, what it costs, what else is there. Read agentd://ledger for what \
is spent. If {suite} is not what {alias} is asked, stop and ask for a suite that is.
2. evaluate suite={suite} model={alias}: this report is the one to hold.
3. Candidates from the cheapest up, one at a time: baseline suite={suite} dataset=…; a smaller local model \
(serve, then evaluate suite={suite} model=…); quantize model=… of what serves it now; finetune only if \
none of these will do.
4. Before each that costs: quote tool=… arguments=…, and say what it could save. In waiting_approval, tell \
the person its `next` and stop.
5. compare candidate=… baseline=REPORT_OF_STEP_2. Only better or not_worse counts; inconclusive is not a \
yes: say how many rows are missing.
Report a table of model, score with interval, cost to make, cost of use, verdict. Ask a person before \
promote alias={alias} model=…, and name the model to go back to.""",
    ),
    "investigate_regression": Prompt(
        "Investigate a regression",
        "Find out why a model, an alias or a report got worse, from what is on record.",
        (
            Argument("report", "the report that is worse", "report"),
            Argument("baseline", "the report it is held against", "report", "BASELINE"),
        ),
        """\
Why is report {report} worse than {baseline} (if none is named: an earlier report of the same suite, from \
agentd://reports)? Only read until step 5.
1. compare candidate={report} baseline={baseline}. If it is inconclusive, say so: it may be chance. \
Reports of different suites cannot be compared; find one that can in agentd://reports.
2. Read agentd://reports/{report} and the other one. Which digests differ: suite, scorer, prompt, chat \
template, model, sampling? A different suite or scorer is a change of the measure, not of the model.
3. Which slices fell, and do errors (rows without an answer) explain it? Read \
agentd://reports/{report}/markdown.
4. What happened between the two: agentd://journal/NAME for the alias, the models and their jobs; job_logs \
job=… of the job that made the model (data, warnings, a quantization).
5. State the likeliest cause, the evidence for it, and the one check that would settle it. If the check is \
an evaluate, quote it first and ask. Ask a person \
before promote alias=… model=… force=true to go back.""",
    ),
}
