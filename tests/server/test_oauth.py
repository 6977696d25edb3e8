"""agentd as an OAuth resource server: a real issuer on loopback, real keys, real HTTP."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agentd.config import OAuthConfig
from agentd.server.app import bind, http_server
from agentd.server.auth import Gate
from agentd.server.oauth import Resource

RESOURCE = "https://box.example/mcp"


class Issuer:
    """An authorization server: it publishes keys, and signs what it is told to."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"one": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.asked: list[str] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                body = json.dumps(issuer.pages().get(self.path)).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def pages(self) -> dict[str, Any]:
        keys = [
            json.loads(jwt.get_algorithm_by_name(self.alg(kid)).to_jwk(key.public_key())) | {"kid": kid}
            for kid, key in self.keys.items()
        ]
        return {
            "/.well-known/oauth-authorization-server": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": {"keys": [*keys, {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}]},
        }

    def alg(self, kid: str) -> str:
        return "RS256" if isinstance(self.keys[kid], rsa.RSAPrivateKey) else "ES256"

    def token(self, kid: str = "one", *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        said = {
            "iss": self.url,
            "aud": RESOURCE,
            "sub": "kim",
            "exp": now + 60,
            "scope": "agentd:view",
        } | claims
        kept = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(kept, self.keys[kid], self.alg(kid), {"kid": kid, "typ": "at+jwt"} | (header or {}))


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    thread = threading.Thread(target=issuer.server.serve_forever)
    thread.start()
    yield issuer
    issuer.server.shutdown()
    issuer.server.server_close()
    thread.join()


@pytest.fixture
def served(issuer: Issuer, kernel: Any) -> Iterator[str]:
    scopes: Any = {"agentd:view": "view", "agentd:operate": "operate", "agentd:approve": "approve"}
    config = OAuthConfig(issuer=issuer.url, resource=RESOURCE, scopes=scopes, algorithms=("RS256", "ES256"))
    server = http_server(kernel, Gate(), Resource(config, refetch_s=0.0))
    listener = bind("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


def ask(url: str, token: str | None, path: str = "/api/status", **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    method = "POST" if options else "GET"
    with httpx.Client(base_url=url, headers=headers, verify=False) as client:
        return client.request(method, path, **options)


def test_a_token_of_the_issuer_is_a_caller_with_the_role_of_its_scopes(issuer: Issuer, served: str) -> None:
    said = ask(served, issuer.token(scope="openid agentd:view agentd:operate")).json()
    assert (said["principal"], said["role"]) == ("oauth:kim", "operate")
    assert ask(served, issuer.token(aud=["other", RESOURCE])).json()["role"] == "view"
    assert issuer.asked == ["/.well-known/oauth-authorization-server", "/keys"]  # once, and kept


NOW = int(time.time())
WRONG: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "https://other.example/mcp"},
    "an audience that only begins so": {"aud": f"{RESOURCE}/more"},
    "no audience": {"aud": None},
    "too late": {"exp": NOW - 3600},
    "without an end": {"exp": None},
    "too early": {"nbf": NOW + 3600},
    "nobody": {"sub": None},
    "a strange subject": {"sub": "kim\nuser:ann"},
    "no scope": {"scope": None},
    "scopes of others": {"scope": "openid admin agentd:view2"},
    "an id token": {"header": {"typ": "id_token"}},
    "a critical header": {"header": {"crit": ["x"], "x": 1}},
    "no key": {"header": {"kid": "two"}},
    "a shared key": {"header": {"kid": "shared"}},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_a_token_that_is_not_for_here_is_refused(issuer: Issuer, served: str, wrong: dict[str, Any]) -> None:
    answer = ask(served, issuer.token(**wrong))
    assert answer.status_code == 401
    assert "resource_metadata=" in answer.headers["www-authenticate"]


def hmac_signed(claims: dict[str, Any], secret: bytes) -> str:
    """A token of algorithm HS256 whose secret is what everybody knows: the public key."""
    parts = [{"alg": "HS256", "kid": "one", "typ": "JWT"}, claims]
    head = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(hmac.digest(secret, head, "sha256")).rstrip(b"=")
    return b".".join((head, signature)).decode()


def test_another_key_or_no_key_signs_nothing(issuer: Issuer, served: str) -> None:
    good = issuer.token()
    head, body, signature = good.split(".")
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    claims = jwt.decode(good, options={"verify_signature": False})
    spki, pem = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.Encoding.PEM
    shared = hmac_signed(claims, issuer.keys["one"].public_key().public_bytes(pem, spki))
    forged = [
        jwt.encode(claims, stranger, "RS256", {"kid": "one"}),
        jwt.encode(claims, None, "none", {"kid": "one"}),
        shared,
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{head}.{body}.",
        "a.b.c",
    ]
    assert [ask(served, token).status_code for token in forged] == [401] * len(forged)
    assert ask(served, good).status_code == 200


def test_a_new_key_is_fetched_when_it_signs_and_an_old_one_is_forgotten(issuer: Issuer, served: str) -> None:
    old = issuer.token()
    assert ask(served, old).status_code == 200
    issuer.keys = {"two": ec.generate_private_key(ec.SECP256R1())}
    assert ask(served, issuer.token("two")).status_code == 200
    assert ask(served, old).status_code == 401


def test_only_a_scope_that_says_so_approves(issuer: Issuer, served: str) -> None:
    body = {"json": {"verdict": "approve"}}
    assert (
        ask(served, issuer.token(scope="agentd:operate"), "/api/approvals/apr-1", **body).status_code == 403
    )
    said = ask(served, issuer.token(scope="agentd:approve"), "/api/approvals/apr-1", **body)
    assert said.json()["decided_by"] == "oauth:kim"


def test_where_tokens_come_from_is_told_without_one(issuer: Issuer, served: str) -> None:
    challenge = ask(served, None).headers["www-authenticate"]
    assert challenge.endswith('"https://box.example/.well-known/oauth-protected-resource/mcp"')
    for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
        said = ask(served, None, path).json()
        assert (said["resource"], said["authorization_servers"]) == (RESOURCE, [issuer.url])
        assert said["scopes_supported"] == ["agentd:approve", "agentd:operate", "agentd:view"]
    assert ask(served, "admin").status_code == 200  # tokens of its own go on


def test_an_issuer_that_does_not_answer_refuses_and_the_rest_goes_on(issuer: Issuer, served: str) -> None:
    token = issuer.token()
    issuer.pages = dict  # type: ignore[method-assign]
    assert ask(served, token).status_code == 401
    assert ask(served, "view").status_code == 200


@pytest.mark.parametrize("url", ["http://issuer.example", "ftp://x", "https://u:p@issuer.example"])
def test_an_issuer_that_anybody_could_be_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"https://|URL|user"):
        OAuthConfig(issuer=url, resource=RESOURCE)
