"""``agentd.toml`` and the environment, read once into one frozen `Config`.

Nothing else in the program reads ``AGENTD_*`` variables. The file is the one named by
``--config`` or ``AGENTD_CONFIG``, else ``$XDG_CONFIG_HOME/agentd/agentd.toml`` when it exists;
a file in the current folder is never picked up by itself, because a cloned repository is not
somebody to take orders from.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from agentd import locations
from agentd.errors import DataError, InputError
from agentd.redaction import redact
from agentd.sdk import Alias, Model

__all__ = [
    "Budget",
    "Capture",
    "CommandConfig",
    "Config",
    "Limit",
    "NoticeKind",
    "NotifierConfig",
    "OAuthConfig",
    "RecipeConfig",
    "ServerConfig",
    "Telemetry",
    "WebhookConfig",
    "load_config",
    "web_address",
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OAuthConfig(Section):
    """Access tokens of an authorization server are taken, too. Off unless this is there."""

    issuer: str = Field(description="its identifier, a URL: what `iss` of a token says")
    resource: str = Field(
        description="the URL that clients know this server by, what `aud` says: https://box/mcp"
    )
    jwks: str = Field(default="", description="URL of its keys; by default what its metadata says")
    scopes: dict[str, Literal["infer", "view", "operate", "approve"]] = Field(
        default={"agentd:view": "view", "agentd:operate": "operate"}, description="scope -> role"
    )
    algorithms: tuple[Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"], ...] = Field(
        default=("RS256", "ES256"), min_length=1, description="signatures that are taken"
    )

    @field_validator("issuer", "resource", "jwks")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        if (
            value
            and urlsplit(web_address(value)).scheme != "https"
            and not _is_loopback(urlsplit(value).hostname or "")
        ):
            raise ValueError("it has to begin with https://, unless it is on this machine")
        return value


class ServerConfig(Section):
    """Where the daemon listens. Anything but loopback also needs `hosts`."""

    host: str = "127.0.0.1"
    port: int = Field(default=8731, ge=0, le=65535, description="0 picks a free port")
    hosts: tuple[str, ...] = Field(default=(), description="extra Host headers that are answered")
    origins: tuple[str, ...] = Field(default=(), description="browser origins that are answered")
    oauth: OAuthConfig | None = Field(default=None, description="tokens of an authorization server")

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HOST.fullmatch(name):
                raise ValueError(f"{name!r} should be a name or address alone: no scheme, port or '*'")
        return value

    @model_validator(mode="after")
    def _says_whom_it_answers(self) -> Self:
        if not self.hosts and not _is_loopback(self.host):
            raise ValueError(
                f"listening on {self.host!r} reaches beyond this machine: name under 'hosts' what clients"
                " will call it, or listen on 127.0.0.1"
            )
        return self

    def seen_at(self, url: str) -> str:
        """What a person's browser calls the server that listens at `url`, as far as these settings say.

        A proxy before it is known by `oauth.resource`, or by an origin whose host is one of `hosts`.
        """
        if self.oauth is not None:
            return _origin(self.oauth.resource)
        named = [name.lower() for name in self.hosts]
        for origin in self.origins:
            if (urlsplit(origin).hostname or "").lower() in named:
                return _origin(origin)
        if named and not _is_loopback(self.host):
            return f"http://{named[0]}:{urlsplit(url).port}"
        return url


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Limit(Section):
    """What each principal, or each project, that the name fits may spend on its own."""

    per_day_usd: float | None = Field(default=None, ge=0)
    per_month_usd: float | None = Field(default=None, ge=0)


class Budget(Section):
    """What may be spent, tokens and jobs together. None is no limit."""

    per_day_usd: float | None = Field(default=10.0, ge=0)
    per_month_usd: float | None = Field(default=100.0, ge=0)
    principals: dict[str, Limit] = Field(
        default={}, description='who asks, as a pattern ("agent:*"), to a limit for each that fits'
    )
    projects: dict[str, Limit] = Field(default={}, description="projects, as patterns, to limits for each")


class Capture(Section):
    """Keep texts that pass the gateway, to make data sets of. Off unless `aliases` names some."""

    aliases: tuple[str, ...] = Field(
        default=(), description='aliases and models whose prompts and answers are kept, as patterns; "*": all'
    )
    keep_days: float = Field(default=30.0, gt=0, description="they, and what was said of them, go after this")
    share: float = Field(default=1.0, ge=0, le=1, description="of the requests, drawn by their ids")
    max_mb: float = Field(default=256.0, gt=0, description="of texts; the oldest go first")


class Telemetry(Section):
    """Requests of the gateway as OpenTelemetry spans, without texts. Off unless this is there."""

    otlp: str = Field(description="base URL of a collector that takes OTLP over HTTP: http://127.0.0.1:4318")

    @field_validator("otlp")
    @classmethod
    def _is_web(cls, value: str) -> str:
        return web_address(value)


class RecipeConfig(Section):
    """Use an interpreter that is already there instead of building an environment."""

    python: Path


NoticeKind = Literal[
    "approval.waiting",
    "approval.expired",
    "job.failed",
    "job.succeeded",
    "run.failed",
    "run.succeeded",
    "budget.low",
    "budget.spent",
    "disk.low",
    "token.created",
    "journal.broken",
    "notifier.failing",
    "rollout.rolled_back",
    "rollout.waiting",
    "rollout.done",
]
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


class Notifier(Section):
    """What every notifier has."""

    name: str = Field(pattern=r"^[\w.-]{1,64}$", description="what it is called; its place is kept under it")
    on: tuple[NoticeKind, ...] = Field(
        default=(
            "approval.waiting",
            "job.failed",
            "budget.low",
            "budget.spent",
            "disk.low",
            "journal.broken",
            "rollout.rolled_back",
        ),
        min_length=1,
        description="what is told",
    )
    gather_s: float = Field(
        default=10.0, ge=0, le=3600, description="seconds: what happens within them is one message"
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="seconds that one delivery may take")


class WebhookConfig(Notifier):
    """Notices as signed POST requests, after the Standard Webhooks specification."""

    kind: Literal["webhook"] = Field(description="`webhook`")
    url: str = Field(default="", description="http:// or https://; give either this or `url_env`")
    url_env: str = Field(
        default="", pattern=f"{VARIABLE}|^$", description="environment variable that holds the URL"
    )
    secret_env: str = Field(
        default="",
        pattern=f"{VARIABLE}|^$",
        description="environment variable that holds what is signed with: `whsec_` and base64",
    )

    @field_validator("url")
    @classmethod
    def _is_web(cls, value: str) -> str:
        return web_address(value) if value else value

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if bool(self.url) == bool(self.url_env):
            raise ValueError("a webhook needs either 'url' or 'url_env'")
        return self


class CommandConfig(Notifier):
    """Notices as runs of a program on this machine, without a shell."""

    kind: Literal["command"] = Field(description="`command`")
    argv: tuple[str, ...] = Field(
        min_length=1,
        description="program and arguments; `{title}`, `{text}` and `{id}` in them are filled in",
    )


NotifierConfig = Annotated[WebhookConfig | CommandConfig, Field(discriminator="kind")]


def web_address(text: str) -> str:
    """`text`, if it is a URL that a webhook may have. Raises `ValueError`."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("it has to be a URL that begins with http:// or https:// and names a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it may not hold a user or password: sign with 'secret_env', or use 'url_env'")
    if parts.fragment or any(letter.isspace() or not letter.isprintable() for letter in text):
        raise ValueError("it may hold neither spaces nor a fragment")
    return text


class Config(Section):
    """Everything a daemon is told. Paths are absolute."""

    state_dir: Path = Field(description="database, artifacts, attempts; one daemon at a time")
    cache_dir: Path = Field(description="recipe environments and downloads; may be shared and deleted")
    roots: tuple[Path, ...] = Field(
        default=(), description="your own folders with tools/, policies/, adapters/, evals/"
    )
    policy: str = Field(default="default", description="a rule set: a name in policies/ or a path")
    prices: str = Field(default="prices", description="a dated price table: a name in policies/ or a path")
    price_days: int = Field(
        default=180, ge=0, description="prices older than so many days are in doubt; 0: never"
    )
    ram_gb: float | None = Field(
        default=None, gt=0, description="memory that a job may be quoted at; by default what there is"
    )
    vram_gb: float | None = Field(default=None, gt=0, description="the same of a GPU")
    max_jobs: int = Field(default=1, ge=1, description="jobs that run at once; services do not count")
    approval_hours: float = Field(
        default=72.0, gt=0, description="an unanswered question expires after this long"
    )
    denial_hours: float = Field(
        default=24.0, ge=0, description="the same action is refused for so long after a no"
    )
    disk_low_gb: float = Field(
        default=0.5, ge=0, description="nothing is launched while less is free on the disk of the state"
    )
    disk_reserve_mb: float = Field(
        default=16.0, ge=0, description="kept free there, for what must be written on a full disk"
    )
    offline: bool = Field(default=False, description="never ask a package index or a model hub")
    server: ServerConfig = ServerConfig()
    budget: Budget = Budget()
    capture: Capture = Capture()
    telemetry: Telemetry | None = Field(default=None, description="where spans are sent")
    models: tuple[Model, ...] = Field(default=(), description="catalog entries, above all API endpoints")
    aliases: tuple[Alias, ...] = Field(
        default=(), description="names for models, and how to choose among them; nothing else moves these"
    )
    recipes: dict[str, RecipeConfig] = {}
    notify: tuple[NotifierConfig, ...] = Field(default=(), description="who is told, of what, and how")
    people: dict[str, tuple[str, ...]] = Field(
        default={}, description='person -> their identities, such as `ann = ["user:ann", "slack:U123"]`'
    )

    @field_validator("people")
    @classmethod
    def _is_one_person(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        listed = [identity for identities in value.values() for identity in identities]
        if twice := sorted({identity for identity in listed if listed.count(identity) > 1}):
            raise ValueError(f"{twice[0]!r} should be one person's, once")
        return value

    @field_validator("notify")
    @classmethod
    def _has_a_name_each(cls, value: tuple[NotifierConfig, ...]) -> tuple[NotifierConfig, ...]:
        names = [each.name for each in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two notifiers are called {twice[0]!r}")
        return value

    @field_validator("state_dir", "cache_dir", "roots", mode="after")
    @classmethod
    def _absolute(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(path.expanduser().resolve() for path in value)
        return value.expanduser().resolve()


def load_config(path: Path | None = None, env: Mapping[str, str] | None = None, **overrides: Any) -> Config:
    """Defaults, then the file, then ``AGENTD_STATE|CACHE|POLICY|PORT|OFFLINE``, then `overrides`.

    Raises `DataError` naming the file and the field.
    """
    env = os.environ if env is None else env
    path = path or locations.config_file(env)
    values: dict[str, Any] = {"cache_dir": locations.cache_dir(env)}
    if path is not None:
        values |= _read(path)
    values.setdefault("state_dir", locations.state_dir(env))
    laid_over = _from_environment(env) | {k: v for k, v in overrides.items() if v is not None}
    values |= laid_over
    if "port" in laid_over and isinstance(values.get("server", {}), dict):
        values["server"] = dict(values.get("server", {})) | {"port": values.pop("port")}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        elsewhere = first["loc"][-1] in laid_over
        raise DataError(
            path if path and not elsewhere else "environment or command line",
            f"{first['msg']} (it says {redact(first['input'])!r})",
            field=".".join(str(part) for part in first["loc"]),
            hint=f"Known fields: {', '.join(Config.model_fields)}"
            if first["type"] == "extra_forbidden"
            else "",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise InputError(f"The config file {str(path)!r} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(path, f"is not valid TOML: {error}") from error
    base = path.resolve().parent
    for name in ("state_dir", "cache_dir"):
        if name in values:
            values[name] = base / Path(str(values[name])).expanduser()
    if isinstance(values.get("roots"), list):
        values["roots"] = [base / Path(str(root)).expanduser() for root in values["roots"]]
    for name in ("policy", "prices"):
        if str(values.get(name, "")).endswith((".yaml", ".yml")):
            values[name] = str(base / Path(values[name]).expanduser())
    return values


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    names = {"AGENTD_STATE": "state_dir", "AGENTD_CACHE": "cache_dir", "AGENTD_POLICY": "policy"}
    values: dict[str, Any] = {field: env[name] for name, field in names.items() if env.get(name)}
    if env.get("AGENTD_PORT"):
        values["port"] = env["AGENTD_PORT"]
    if env.get("AGENTD_OFFLINE"):
        values["offline"] = env["AGENTD_OFFLINE"]
    return values
