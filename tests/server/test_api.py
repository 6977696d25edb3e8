"""The control API and the gateway, over real HTTP."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from agentd.errors import AgentdError
from agentd.router.faults import UpstreamError
from agentd.server.wire import STATUS, status_of


class Client:
    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, method: str, path: str, body: Any = None, token: str = "admin") -> httpx.Response:
        with httpx.Client(base_url=self._url, verify=False) as client:
            return client.request(method, path, json=body, headers={"authorization": f"Bearer {token}"})


@pytest.fixture
def ask(daemon: Any) -> Client:
    return Client(daemon.url)


def test_a_tool_is_called_as_the_person_from_their_folder(ask: Client) -> None:
    answer = ask("POST", "/api/call/echo", {"arguments": {"text": "x"}, "cwd": "/tmp"}, "operate").json()
    assert (answer["principal"], answer["surface"], answer["is_agent"], answer["cwd"]) == (
        "ada-operate",
        "cli",
        False,
        "/tmp",
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/api/call/ecko", {}, 404, "not_found"),
        ("POST", "/api/call/echo", {}, 400, "invalid"),
        ("POST", "/api/call/echo", {"arguments": []}, 400, "invalid"),
        ("POST", "/api/call/echo", [], 400, "invalid"),
        ("POST", "/api/call/echo", {"arguments": {"text": "x"}, "key": 5}, 400, "invalid"),
        ("POST", "/api/call/overspend", {}, 402, "over_budget"),
        ("GET", "/api/jobs/none", None, 404, "not_found"),
        ("GET", "/api/jobs/none/follow", None, 404, "not_found"),
        ("GET", "/api/jobs/job-1/logs?tail=0", None, 400, "invalid"),
        ("GET", "/api/jobs?limit=%C2%B2", None, 400, "invalid"),
        ("GET", "/api/requests/none", None, 404, "not_found"),
        ("POST", "/api/approvals/apr-1", {"verdict": "maybe"}, 400, "invalid"),
        ("GET", "/api/nothing", None, 404, "not_found"),
        ("PUT", "/api/jobs", None, 405, "no_such_method"),
    ],
)
def test_errors_have_a_status_a_code_and_words(
    ask: Client, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = ask(method, path, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["message"]


def test_a_body_that_is_not_json_is_refused(daemon: Any) -> None:
    headers = {"authorization": "Bearer admin"}
    answer = httpx.post(f"{daemon.url}/api/call/echo", content=b"{oops", headers=headers)
    assert answer.status_code == 400


def test_a_crash_shows_an_incident_and_not_its_cause(ask: Client, caplog: pytest.LogCaptureFixture) -> None:
    answer = ask("POST", "/api/call/crash", {})
    assert answer.status_code == 500
    assert "1234" not in answer.text
    incident = answer.json()["error"]["hint"].split("incident ")[1].split()[0]
    assert incident in caplog.text


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/api/status", "state_dir"),
        ("/api/jobs/job-1", "state"),
        ("/api/jobs/job-1/logs?tail=2", "lines"),
        ("/api/runs/run-1", "steps"),
        ("/api/approvals/apr-1", "state"),
        ("/api/models", "aliases"),
        ("/api/reports/rep-1", "score"),
        ("/api/requests/req-1", "why"),
        ("/api/ledger", "day_spent"),
        ("/api/journal/verify", "ok"),
    ],
)
def test_a_viewer_may_look(ask: Client, path: str, key: str) -> None:
    assert key in ask("GET", path, token="view").json()


@pytest.mark.parametrize(
    "path",
    ["jobs", "runs", "approvals", "reports", "artifacts", "requests", "tools", "journal", "notifiers"],
)
def test_lists_are_lists(ask: Client, path: str) -> None:
    assert isinstance(ask("GET", f"/api/{path}", token="view").json(), list)


@pytest.mark.parametrize(
    "path",
    [
        "/api/shutdown",
        "/api/call/finetune",
        "/api/jobs/job-1/cancel",
        "/api/runs/run-1/stop",
        "/api/runs/run-1/resume",
        "/api/approvals/apr-1",
        "/api/notifiers/test",
    ],
)
def test_a_viewer_changes_nothing(ask: Client, daemon: Any, path: str) -> None:
    answer = ask("POST", path, {"arguments": {"data": "x"}, "verdict": "approve"}, "view")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "unauthorized")
    assert daemon.kernel.jobs.cancelled == []


def test_a_key_for_inference_does_not_look(ask: Client) -> None:
    assert ask("GET", "/api/jobs", token="infer").status_code == 403


def test_a_persons_answer_reaches_the_kernel(ask: Client) -> None:
    answer = ask("POST", "/api/approvals/apr-1", {"verdict": "deny", "reason": "too dear"}, "approve").json()
    assert answer == {"id": "apr-1", "state": "deny", "decided_by": "ada-approve", "reason": "too dear"}


@pytest.mark.parametrize("token", ["robot", "operate"])
def test_an_agent_or_a_weak_token_never_answers_an_approval(ask: Client, token: str) -> None:
    assert ask("POST", "/api/approvals/apr-1", {"verdict": "approve"}, token).status_code == 403
    assert ask("GET", "/api/approvals/apr-1").json()["state"] == "pending"


@pytest.mark.parametrize("path", ["/api/tokens", "/api/tokens/tok-1/revoke"])
@pytest.mark.parametrize("token", ["view", "operate", "approve", "robot"])
def test_who_is_no_administrator_makes_and_revokes_no_token(
    ask: Client, daemon: Any, path: str, token: str
) -> None:
    answer = ask("POST", path, {"person": "eve", "role": "admin"}, token)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "unauthorized")
    assert daemon.kernel.tokens.attempts == [(token if token == "robot" else f"ada-{token}", path)]
    assert ask("GET", "/api/tokens", token=token).status_code == 403


def test_following_a_job_gives_a_line_for_each_change_until_the_end(ask: Client) -> None:
    answer = ask("GET", "/api/jobs/job-1/follow")
    views = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [view["progress"].get("done") for view in views] == [None, 1, 2, 3, None]
    assert views[-1]["state"] == "succeeded"


def test_following_a_run_gives_its_states(ask: Client) -> None:
    lines = ask("GET", "/api/runs/run-1/follow").text.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["running", "succeeded"]


def test_the_journal_is_checked_against_a_head_kept_elsewhere(ask: Client) -> None:
    assert ask("GET", "/api/journal/verify?head=7:abc").json()["head"] == [7, "abc"]
    assert ask("GET", "/api/journal/verify?head=x:abc").json()["head"] is None


def test_shutting_down_is_answered_first(ask: Client) -> None:
    assert ask("POST", "/api/shutdown").json() == {"stopping": True}


def test_every_error_has_a_status() -> None:
    def below(kind: type[AgentdError]) -> list[type[AgentdError]]:
        return [sub for each in kind.__subclasses__() for sub in [each, *below(each)]]

    assert set(STATUS) <= set(below(AgentdError))
    for kind in below(AgentdError):
        assert any(each in STATUS for each in kind.__mro__), kind


@pytest.mark.parametrize(("theirs", "ours"), [(400, 400), (429, 429), (401, 502), (500, 502), (504, 504)])
def test_an_endpoint_is_quoted_on_the_request_but_not_on_our_key(theirs: int, ours: int) -> None:
    assert status_of(UpstreamError("It said so", status=theirs)) == ours


# --- the gateway ------------------------------------------------------------------------------

CHAT = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}


def test_a_chat_request_keeps_its_unknown_fields(ask: Client) -> None:
    answer = ask("POST", "/v1/chat/completions", {**CHAT, "top_k": 5, "extra": {"a": 1}}, "infer").json()
    assert answer["choices"][0]["message"]["content"] == "gateway small"
    assert (answer["sent"]["top_k"], answer["sent"]["extra"]) == (5, {"a": 1})


def test_a_streamed_chat_request_is_server_sent_events(ask: Client) -> None:
    answer = ask("POST", "/v1/chat/completions", {**CHAT, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_has_openais_shape_streamed_or_not(ask: Client, stream: bool) -> None:
    answer = ask("POST", "/v1/chat/completions", {**CHAT, "model": "dear", "stream": stream})
    error = answer.json()["error"]
    assert answer.status_code == 402
    assert (error["type"], error["code"], error["param"]) == ("insufficient_quota", "over_budget", None)


def test_a_refusal_in_midstream_is_the_last_event(ask: Client) -> None:
    answer = ask("POST", "/v1/chat/completions", {**CHAT, "model": "brittle", "stream": True})
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert json.loads(events[-1])["error"]["code"] == "over_budget"


@pytest.mark.parametrize("body", [{}, {"model": 5}, {"model": "small"}, {"model": "small", "messages": []}])
def test_a_chat_request_without_model_or_messages_is_refused(ask: Client, body: dict[str, Any]) -> None:
    answer = ask("POST", "/v1/chat/completions", body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_models_and_aliases_are_listed(ask: Client) -> None:
    data = ask("GET", "/v1/models", token="infer").json()["data"]
    assert [(model["id"], model["owned_by"]) for model in data] == [("small", "local"), ("support", "alias")]
