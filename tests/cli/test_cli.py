"""The command line: help, arguments, exit codes; and a real daemon behind it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from agentd import errors
from agentd.cli import show
from agentd.cli.app import COMMANDS, app, exit_code
from agentd.cli.call import named_values
from agentd.errors import AgentdError, InputError

ROOT = Path(__file__).parents[1] / "root"
CACHE = os.environ.get("AGENTD_CACHE") or str(Path(__file__).parents[2] / "build" / "cache")


def commands(group: click.Group, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{name} is listed and not there"
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)


# --- without a daemon -----------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    context = click.Context(app)
    command = app.get_command(context, name)
    assert command is not None
    listed = [((name,), command)]
    if isinstance(command, click.Group):
        listed += list(commands(command, name))
    for words, _ in listed:
        shown = CliRunner().invoke(app, [*words, "--help"])
        assert shown.exit_code == 0
        assert "Usage:" in shown.output
        if len(words) == 1:
            assert f"agentd {name}" in shown.output.partition("Example")[2], f"{words} shows no example"


def tree(kind: type[AgentdError]) -> Iterator[type[AgentdError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from tree(below)


CODES = {
    "AgentdError": 1, "ClientGone": 1, "InputError": 2, "NotFound": 2, "DataError": 2, "Conflict": 2,
    "Refused": 3, "Denied": 3, "NeedsApproval": 5, "OverBudget": 3, "Unauthorized": 3,
    "Unavailable": 4, "DiskFull": 4, "Unknown": 6, "Busy": 75,
}  # fmt: skip


@pytest.mark.parametrize("kind", list(tree(AgentdError)), ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_has_its_exit_code(kind: type[AgentdError]) -> None:
    made: dict[str, AgentdError] = {
        "NeedsApproval": errors.NeedsApproval("x", job_id="j", approval_id="a"),
        "NotFound": errors.NotFound("job", "x"),
        "DataError": errors.DataError("x", "y"),
    }
    error = made.get(kind.__name__) or kind("x")
    assert exit_code(error) == CODES[kind.__name__]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("1e-3", 0.001), ("-2.5", -2.5), ("true", True), ("null", None), ("", ""),
        ("no", "no"), ("007", "007"), ("2026-11-01", "2026-11-01"), ("12:30", "12:30"), ("NaN", "NaN"),
        ("how long: a day?", "how long: a day?"), ("train.jsonl", "train.jsonl"), ('"3"', "3"),
        ("[1, two, 2026-11-01]", [1, "two", "2026-11-01"]), ("{a: 1, b: [x]}", {"a": 1, "b": ["x"]}),
        ("[not closed", "[not closed"), ("a=b", "a=b"),
    ],
)  # fmt: skip
def test_values_are_read_as_what_they_look_like(text: str, value: Any) -> None:
    read = named_values((f"x={text}",))["x"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("pair", ["text", "=x", "two words=x", "a-b=1"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(InputError, match="is not NAME=VALUE"):
        named_values((pair,))


def test_figures_with_intervals_are_a_table_and_a_missing_bound_is_empty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = {"kappa": {"value": 0.25, "low": -0.125, "high": 0.5}, "exact": {"value": 1, "low": None}}
    assert all(map(show.is_estimate, values.values()))
    assert not show.is_estimate({"value": 1, "unit": "s"})
    show.estimates("figures", values)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [line for line in lines if line[0] in ("figures", "kappa", "exact")] == [
        ["figures", "value", "low", "high"],
        ["kappa", "0.250", "-0.125", "0.500"],
        ["exact", "1.000"],
    ]


# --- with one -------------------------------------------------------------------------------


class Shell:
    """The command line in a folder of its own: in this process, or as a process with `spawn`."""

    started: subprocess.CompletedProcess[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = folder / "agentd.toml"
        config.write_text(
            f'state_dir = "state"\ncache_dir = {json.dumps(CACHE)}\nroots = [{json.dumps(str(ROOT))}]\n'
            'policy = "asking"\nprices = "dollar_a_second"\n'
            "[server]\nport = 0\n[budget]\nper_day_usd = 500.0\n",
            encoding="utf-8",
        )
        own = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
        self.env = {**own, "AGENTD_CONFIG": str(config), "NO_COLOR": "1"}

    def __call__(self, *words: str, code: int = 0) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            done = CliRunner().invoke(app, words, env=self.env, catch_exceptions=False)
        assert done.exit_code == code, f"{words}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
        return done

    def spawn(self, *words: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "agentd", *words], cwd=self.folder, env=self.env | env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)


@pytest.fixture(scope="module")
def agentd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("cli"))
    shell.started = shell.spawn("call", "say", "text=hello there")
    yield shell
    shell("stop", "--jobs")


def test_a_call_starts_the_daemon_and_answers_on_stdout(agentd: Shell) -> None:
    assert agentd.started.stdout.splitlines()[0].split() == ["text", "hello", "there"]
    assert "user:" in agentd.started.stdout
    assert "started the daemon (http://127.0.0.1:" in agentd.started.stderr
    again = agentd.spawn("call", "say", "text=3x", "--json")
    assert json.loads(again.stdout)["text"] == "3x"
    assert again.stderr == ""


def test_a_wrong_call_is_told_in_one_line_with_exit_code_2(agentd: Shell) -> None:
    done = agentd("call", "sya", "text=x", code=2)
    assert done.stdout == ""
    assert done.stderr == "agentd: There is no tool 'sya'. Did you mean 'say'?\n"
    assert "text: is needed" in agentd("call", "say", code=2).stderr
    assert "Input should be a valid string" in agentd("call", "say", "text=3", code=2).stderr


def test_a_file_is_found_from_the_folder_of_the_caller(agentd: Shell) -> None:
    (agentd.folder / "five.txt").write_text("12345", encoding="utf-8")
    assert agentd.json("call", "measure", "path=five.txt")["text"] == "5"


def test_a_call_that_waits_for_approval_exits_with_5_and_goes_on_when_it_is_approved(agentd: Shell) -> None:
    done = agentd("call", "work", "text=from the shell", code=5)
    [question] = agentd.json("approvals")
    assert f"agentd approve {question['id']}" in done.stderr
    assert {"id", "job", "action", "digest", "facts", "state", "expires_at"} <= question.keys()
    assert "Work on from the shell" in agentd("approvals").stdout
    assert question["digest"][:16] in agentd("approvals", question["id"]).stderr
    assert (
        "approved: Work on from the shell" in agentd("approve", question["job"], "--reason", "why not").stderr
    )
    job = agentd.json("jobs", question["job"], "--follow")
    assert (job["state"], job["result"]["text"]) == ("succeeded", "from the shell")
    assert job["decided_by"].startswith("user:")
    assert "already approved and used" in agentd("approve", question["id"], code=2).stderr
    assert agentd.json("jobs")[0]["id"] == job["id"]
    assert "succeeded" in agentd("jobs").stdout


def test_a_job_that_fails_exits_with_1_and_its_own_words(agentd: Shell) -> None:
    handle = agentd.json("call", "work", "behaviour=crash", "--no-wait")
    agentd("approve", handle["id"])
    done = agentd("jobs", handle["id"], "--follow", code=1)
    assert f"{handle['id']} failed: it exited with 1: RuntimeError" in done.stderr
    assert "Traceback" in agentd("jobs", handle["id"], "--logs").stdout


def test_a_denied_call_exits_with_3(agentd: Shell) -> None:
    assert "Policy denies 'work'" in agentd("call", "work", "text=secret", code=3).stderr


def test_what_costs_more_than_the_budget_holds_exits_with_3(agentd: Shell) -> None:
    assert "may cost up to $600.00" in agentd("call", "work", "timeout_s=600", code=3).stderr


def test_a_quote_is_told_and_starts_nothing(agentd: Shell) -> None:
    before = len(agentd.json("jobs"))
    quote = agentd.json("call", "work", "--quote")
    assert quote["seconds"] > 0
    assert quote["basis"]
    assert len(agentd.json("jobs")) == before


def test_a_plan_is_run_and_its_steps_are_told_on_stderr(agentd: Shell) -> None:
    plan = "plan: p\ngoal: g\nparams: {t: x}\nsteps:\n  - {id: a, tool: say, args: {text: '${params.t}'}}\n"
    (agentd.folder / "plan.yaml").write_text(plan, encoding="utf-8")
    draft = agentd.json("run", "plan.yaml", "--plan-only", "--set", "t=hi")
    assert (draft["plan"], draft["steps"][0]["policy"], draft["unquoted"]) == (plan, "allow", [])
    assert "costs about" in agentd("run", "plan.yaml", "--plan-only").stdout
    assert "for a drafted plan" in agentd("run", "plan.yaml", "--save", "other.yaml", code=2).stderr
    assert "no file" in agentd("run", "plans.yaml", "--plan-only", code=2).stderr
    view = agentd.json("run", "plan.yaml", "--set", "t=hi")
    assert (view["state"], view["steps"][0]["result"]["text"]) == ("succeeded", "hi")
    assert agentd.json("runs")[0]["id"] == view["id"]
    assert "Only failed and stopped" in agentd("run", "--resume", view["id"], code=2).stderr
    assert "Name a plan" in agentd("run", code=2).stderr


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (("tools",), {"name", "title", "description", "inputSchema"}),
        (("models",), {"models", "aliases"}),
        (("ledger",), {"day_spent", "day_reserved", "day_limit", "budgets", "entries"}),
        (("quotes",), {"tool", "key", "jobs", "factor", "error", "stated", "covered", "level"}),
        (("journal", "-n", "3"), {"seq", "at", "kind", "subject", "principal", "data", "hash"}),
        (("journal", "verify"), {"ok", "entries", "head", "problem"}),
        (("doctor",), {"what", "ok", "found", "mend"}),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_json_has_the_shape_that_programs_rely_on(
    agentd: Shell, words: tuple[str, ...], keys: set[str]
) -> None:
    shown = agentd.json(*words)
    assert keys <= (shown[0] if isinstance(shown, list) else shown).keys()


def test_doctor_names_what_must_be_mended(agentd: Shell, tmp_path: Path) -> None:
    broken = tmp_path / "agentd.toml"
    broken.write_text('policy = "opne"\nroots = ["nowhere"]\n', encoding="utf-8")
    done = agentd.spawn("doctor", code=1, AGENTD_CONFIG=str(broken))
    assert "nowhere' has none of tools/" in done.stdout
    broken.write_text("polcy = 1\n", encoding="utf-8")
    assert "polcy" in agentd.spawn("doctor", code=1, AGENTD_CONFIG=str(broken)).stdout


def test_a_second_daemon_exits_with_75_and_names_the_first(agentd: Shell) -> None:
    pid = json.loads((agentd.folder / "state/daemon.json").read_text(encoding="utf-8"))["pid"]
    assert f"Another daemon (pid {pid}, " in agentd.spawn("serve", code=75).stderr


def test_the_journal_is_shown_by_kind_subject_and_time(agentd: Shell) -> None:
    started = agentd.json("journal", "--kind", "daemon.*", "--since", "1h")
    assert [entry["kind"] for entry in started][:1] == ["daemon.started"]
    assert agentd.json("journal", "--subject", started[0]["subject"])[0]["seq"] == started[0]["seq"]
    assert agentd.json("journal", "--since", "2999-01-01 12:00") == []
    assert "'soon' is no time" in agentd("journal", "--since", "soon", code=2).output


def test_a_head_is_exported_and_looked_for_with_or_without_a_daemon(agentd: Shell, tmp_path: Path) -> None:
    file, state = tmp_path / "head.json", agentd.folder / "state"
    agentd("journal", "head", "--output", str(file))
    head = json.loads(file.read_text("utf-8"))
    assert agentd.json("journal", "head")["seq"] >= head["seq"] > 0
    checked = agentd.json("journal", "verify", "--head", str(file))
    assert (checked["ok"], checked["against"]) == (True, ["exported", "noted in journal.head"])
    for where in (state, state / "agentd.db"):
        done = agentd("journal", "verify", str(where), "--head", f"{head['seq']}:{'0' * 64}", code=1)
        assert f"entry {head['seq']} is not the one that was exported" in done.output
    assert "neither a file" in agentd("journal", "verify", "--head", "nothing", code=2).output
    assert "There is no journal" in agentd("journal", "verify", str(tmp_path / "no"), code=4).output
