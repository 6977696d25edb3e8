"""Guards are functions of what was done."""

from __future__ import annotations

import pytest

from agentd.agent.guards import Limits, Made, Used, denied_before, looping, mistaken, over, repeats, unfounded


def calls(names: str, *, outcome: str = "done", result: str = "") -> list[Made]:
    return [Made(f"s{n}", name, "{}", outcome, result) for n, name in enumerate(names)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("used", "guard"),
    [
        (Used(steps=3), "steps"),
        (Used(tokens=50), "tokens"),
        (Used(micro_usd=500_000), "money"),
        (Used(seconds=7200), "time"),
        (Used(steps=2, tokens=49, micro_usd=499_999, seconds=7199), ""),
    ],
)
def test_a_limit_that_is_reached_is_named_with_the_option_that_raises_it(used: Used, guard: str) -> None:
    fired = over(Limits(steps=3, tokens=50, usd=0.5, hours=2), used)
    assert (fired.guard if fired else "") == guard
    assert fired is None or fired.more.startswith("--max-")


@pytest.mark.parametrize(
    ("names", "guard"),
    [
        ("aaa", "repeated"),
        ("xaaa", "repeated"),
        ("aa", ""),
        ("abab", ""),
        ("ababab", "cycle"),
        ("abcabcabc", "cycle"),
        ("abcdeabcdeabcde", "cycle"),
        ("abcdefabcdefabcdef", ""),
        ("aabaa", ""),
    ],
)
def test_the_same_call_and_cycles_of_two_to_five_are_noticed_the_third_time(names: str, guard: str) -> None:
    fired = looping(calls(names))
    assert (fired.guard if fired else "") == guard


def test_a_call_whose_result_changes_is_no_repetition() -> None:
    made = [Made(f"s{n}", "job_status", "{}", "done", str(n)) for n in range(5)]
    assert looping(made) is None
    assert repeats(made) == ""
    assert repeats([*made, made[2]]) == "s2"


def test_mistakes_in_a_row_are_told_twice_and_end_the_run_the_third_time() -> None:
    assert mistaken(calls("xy", outcome="unknown_tool")) is None
    fired = mistaken(calls("xyz", outcome="unknown_tool"))
    assert fired
    assert fired.guard == "unknown_tool"
    assert "'x', 'y', 'z'" in fired.why
    assert mistaken(calls("xyz", outcome="wrong_arguments")) is None  # each of them once
    fired = mistaken(calls("xxx", outcome="wrong_arguments"))
    assert fired
    assert fired.guard == "wrong_arguments"
    assert mistaken([*calls("xx", outcome="wrong_arguments"), *calls("x")]) is None


def test_a_denial_is_remembered_for_exactly_that_call() -> None:
    made = [Made("s1", "move", '{"name":"a"}', "denied")]
    assert denied_before(made, "move", '{"name":"a"}') == "s1"
    assert denied_before(made, "move", '{"name":"b"}') == ""


TOOLS = ("finetune", "promote", "quantize")


@pytest.mark.parametrize(
    ("answer", "claims", "numbers"),
    [
        ("job-1m8abcd succeeded with 0.83.", [], []),
        ("job-1m8abcx succeeded.", ["job-1m8abcx"], []),
        ("It reached 83.3 % and cost $0.0026.", [], []),
        ("It reached 0.91.", [], ["0.91"]),
        ("2 of 3 steps are done.", [], []),
        ("I fine-tuned it.", [], []),
        ("I promoted the adapter.", ["promoted (no promote was carried out)"], []),
        ("It was not promoted.", [], []),
        ("Its digest is deadbeef0123.", ["deadbeef0123"], []),
    ],
)
def test_what_no_step_gave_is_found_in_an_answer(answer: str, claims: list[str], numbers: list[str]) -> None:
    grounds = '{"job": "job-1m8abcd", "score": 0.8333, "cost": 0.002649}'
    assert unfounded(answer, grounds, ["finetune"], TOOLS) == (claims, numbers)


def test_several_mistakes_of_one_reply_are_told_before_they_end_a_run() -> None:
    def wrong(turn: int, step: str) -> Made:
        return Made(step, "move", "{}", "wrong_arguments", turn=turn)

    one_reply = [wrong(1, f"s{number}") for number in range(4)]
    assert mistaken(one_reply) is None
    assert mistaken([*one_reply, wrong(2, "s5")]) is None
    fired = mistaken([*one_reply, wrong(2, "s5"), wrong(3, "s6")])
    assert fired is not None
    assert fired.guard == "wrong_arguments"
