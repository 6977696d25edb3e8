"""Data sets as trl's trainers take them, to imitate, to prefer, to be rewarded for; and as eval cases.

    sft          {"prompt", "completion"}, {"messages"} or {"text"}        SFTTrainer
    preference   {"prompt", "chosen", "rejected"}                          DPOTrainer, RewardTrainer
    verifier     {"prompt", "expected"} and ``reward.py`` with a scorer    GRPOTrainer
    suite        {"id", "input", "expected"} and a suite's YAML            `evaluate`

Rows keep their id and nothing else of ours. What a form has no use for is left out and counted. The
trainers are not needed to export; `README.md` beside the rows has the lines that load them.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from agentd.sdk import Context, InputError, tool

from .cases import write_suite
from .datasets import read_row, read_rows, rows_file

__all__ = ["Exported", "Form", "export_dataset"]

Form = Literal["sft", "preference", "verifier", "suite"]

KIND = "export"
FIELDS = ("prompt", "completion", "messages", "text")
LOAD: Mapping[Form, str] = {
    "sft": "from trl import SFTTrainer\n\ntrainer = SFTTrainer(model, train_dataset=rows)",
    "preference": "from trl import DPOTrainer\n\ntrainer = DPOTrainer(model, train_dataset=rows)",
    "verifier": "from reward import reward  # in this folder\nfrom trl import GRPOTrainer\n\n"
    "trainer = GRPOTrainer(model, reward_funcs=reward, train_dataset=rows)",
}


class Exported(BaseModel):
    export: str = Field(description="the artifact's id")
    path: str = Field(description="folder with data.jsonl and README.md, and reward.py of a verifier")
    form: Form
    rows: int
    left_out: dict[str, int] = Field(default={}, description="why rows have no place in it: how many")
    load: str = Field(description="Python that trains on it, or the command that evaluates with it")


@tool(title="Export a data set", result=Exported, idempotent=True, listed=False)
async def export_dataset(
    ctx: Context,
    *,
    dataset: Annotated[str, Field(description="name (its newest version) or id")],
    form: Annotated[
        Form,
        Field(description="sft: answers to imitate; preference: better and worse ones; verifier: prompts "
              "with what a program checks answers against; suite: eval cases"),
    ] = "sft",
    scorer: Annotated[
        str, Field(description="of a verifier or suite: what checks an answer, a name in evals/scorers/")
    ] = "exact_text",
    options: Annotated[dict[str, Any], Field(description="options of the scorer")] = {},  # noqa: B006
) -> Exported:  # fmt: skip
    """Write a data set as trl's trainers load it, SFT, preference pairs or a verifier; or as eval cases."""
    artifact = ctx.artifacts.get(dataset, "dataset")
    source = rows_file(artifact.path)
    left_out: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for line, row in read_rows(source):
        read_row(source, line, row)
        shaped = _SHAPED[form](row) if form in _SHAPED else _verifier(row, as_json="json" in scorer)
        if isinstance(shaped, str):
            left_out[shaped] += 1
        else:
            rows.append({**({"id": row["id"]} if "id" in row else {}), **shaped})
    folder = ctx.scratch() / f"{artifact.name}-{form}"
    folder.mkdir(parents=True)
    suite: Path | None = None
    count = len(rows)
    if form == "suite":
        ctx.plugins.find("evals/scorers", f"{scorer}.py")
        expected = [{**row, "expected": _value(row["expected"], scorer)} for row in rows]
        suite, count, others = write_suite(folder, artifact.name, artifact.id, expected, scorer, options)
        left_out += others
    if not count:
        why = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise InputError(f"No row of {artifact.name!r} can be exported as {form}: {why}", hint=HINTS[form])
    if suite is None:
        with (folder / "data.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if form == "verifier":
        _write_reward(ctx, folder, scorer, options)
    load = f"agentd call evaluate model=MODEL suite={suite.name}" if suite else LOADING + LOAD[form]
    (folder / "README.md").write_text(_card(artifact.id, form, count, left_out, load), encoding="utf-8")
    kept = ctx.artifacts.add(
        KIND, folder, name=folder.name, meta={"form": form, "rows": count}, parents=[artifact.id]
    )
    if suite:
        load = f"agentd call evaluate model=MODEL suite={kept.path / suite.name}"
    return Exported(
        export=kept.id, path=str(kept.path), form=form, rows=count, left_out=dict(left_out), load=load
    )


LOADING = """\
from datasets import load_dataset

rows = load_dataset("json", data_files="data.jsonl", split="train")
"""
HINTS: Mapping[Form, str] = {
    "sft": "",
    "preference": "Pairs come of ratings ('agentd data prepare') and mended answers ('agentd data review')",
    "verifier": "A verifier needs a question and one answer that is right",
    "suite": "An eval case needs one question and an answer that is right",
}


def _sft(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in FIELDS if name in row}


def _preference(row: Mapping[str, Any]) -> dict[str, Any] | str:
    worse = row.get("rejected")
    if not worse:
        return "without a worse answer"
    halves = _halves(row)
    if halves is None:
        return "without a question"
    prompt, chosen = halves
    if isinstance(chosen, list) and isinstance(worse, str):
        worse = [{"role": "assistant", "content": worse}]
    elif isinstance(chosen, str) and not isinstance(worse, str):
        worse = worse[-1]["content"]
    if worse == chosen:
        return "whose answers are the same"
    return {"prompt": prompt, "chosen": chosen, "rejected": worse}


def _verifier(row: Mapping[str, Any], *, as_json: bool = False) -> dict[str, Any] | str:
    halves = _halves(row)
    if halves is None:
        return "without a question"
    prompt, answer = halves
    expected = answer if isinstance(answer, str) else answer[-1]["content"]
    if as_json and not _is_json(expected):
        return "whose answer is not JSON"
    return {"prompt": prompt, "expected": expected}


_SHAPED = {"sft": _sft, "preference": _preference}


def _halves(row: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """What is asked, and the last answer, both as texts or both as messages."""
    if "completion" in row:
        prompt, answer = row["prompt"], row["completion"]
        if isinstance(prompt, str) == isinstance(answer, str):
            return prompt, answer
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        return asked, said
    if "messages" in row:
        return row["messages"][:-1], row["messages"][-1:]
    return None


def _value(expected: str, scorer: str) -> Any:
    return json.loads(expected) if "json" in scorer else expected


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _write_reward(ctx: Context, folder: Path, scorer: str, options: Mapping[str, Any]) -> None:
    shutil.copy2(ctx.plugins.find("evals/scorers", f"{scorer}.py"), folder / "scorer.py")
    text = REWARD.format(options=dict(options), as_json="json" in scorer)
    (folder / "reward.py").write_text(text, encoding="utf-8")


REWARD = '''"""What an answer is worth by scorer.py, 0 to 1: GRPOTrainer(reward_funcs=reward)."""

import importlib.util
import json
from pathlib import Path

OPTIONS = {options!r}
AS_JSON = {as_json}

_spec = importlib.util.spec_from_file_location("scorer", Path(__file__).with_name("scorer.py"))
scorer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(scorer)


def reward(completions, expected, **columns):
    """One number an answer; `completions` are texts, or lists of messages."""
    rewards = []
    for index, (completion, right) in enumerate(zip(completions, expected)):
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        row = {{name: values[index] for name, values in columns.items() if isinstance(values, list)}}
        right = json.loads(right) if AS_JSON else right
        rewards.append(float(scorer.score(right, text, {{**row, "expected": right}}, **OPTIONS)))
    return rewards
'''


def _card(dataset: str, form: Form, rows: int, left_out: Mapping[str, int], load: str) -> str:
    lines = [f"# {dataset}, as {form}", "", f"{rows} rows of the data set `{dataset}`."]
    lines += [f"{count} rows {reason} were left out." for reason, count in left_out.items()]
    return "\n".join([*lines, "", "```bash" if form == "suite" else "```python", load, "```", ""])
