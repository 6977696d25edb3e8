"""The tables, as sqlite-utils migrations. Released migrations are never edited: add another one.

Times are seconds since the epoch (REAL), money is integer micro-USD, structured values are
JSON in TEXT.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loaded for a database that lacks some migrations, which few starts meet
    from sqlite_utils import Database

__all__ = ["MIGRATIONS", "migrate"]

Migration = Callable[["Database"], None]

SET = "agentd"
MIGRATIONS: list[Migration] = []
"""In the order in which they are applied."""


def migration(fn: Migration) -> Migration:
    MIGRATIONS.append(fn)
    return fn


def migrate(connection: sqlite3.Connection) -> None:
    """Apply what was not applied yet."""
    applied: set[str] = set()
    with contextlib.suppress(sqlite3.OperationalError):  # a new file has no such table
        rows = connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = ?", [SET])
        applied = {row[0] for row in rows}
    if applied >= {each.__name__ for each in MIGRATIONS}:
        return
    from sqlite_utils import Database, Migrations

    pending = Migrations(SET)
    for each in MIGRATIONS:
        pending()(each)
    pending.apply(Database(connection))


@migration
def first(db: Database) -> None:
    for statement in _FIRST.split(";\n"):
        if statement.strip():
            db.conn.execute(statement)


_FIRST = """
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    principal TEXT NOT NULL,
    data TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE INDEX journal_subject ON journal (subject);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    tool TEXT NOT NULL,
    title TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    principal TEXT NOT NULL,
    surface TEXT NOT NULL,
    cwd TEXT NOT NULL,
    arguments TEXT NOT NULL,
    launch TEXT,
    quote TEXT NOT NULL,
    digest TEXT NOT NULL DEFAULT '',
    decided_by TEXT,
    result TEXT,
    micro_usd INTEGER,
    timing_key TEXT NOT NULL DEFAULT '',
    serves TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL
) STRICT;
CREATE INDEX jobs_state ON jobs (state);
CREATE INDEX jobs_timing ON jobs (tool, timing_key);
CREATE TABLE attempts (
    id TEXT PRIMARY KEY,
    job TEXT NOT NULL REFERENCES jobs (id),
    folder TEXT NOT NULL,
    port INTEGER,
    created_at REAL NOT NULL,
    ended_at REAL,
    outcome TEXT
) STRICT;
CREATE INDEX attempts_job ON attempts (job);
CREATE TABLE approvals (
    id TEXT PRIMARY KEY,
    job TEXT NOT NULL REFERENCES jobs (id),
    action TEXT NOT NULL,
    digest TEXT NOT NULL,
    facts TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'expired', 'consumed')),
    requested_by TEXT NOT NULL,
    rule TEXT NOT NULL,
    decided_by TEXT,
    reason TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    decided_at REAL
) STRICT;
CREATE INDEX approvals_state ON approvals (state);
CREATE INDEX approvals_digest ON approvals (digest);
CREATE TABLE ledger (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('job', 'tokens')),
    subject TEXT NOT NULL,
    principal TEXT NOT NULL,
    reserved INTEGER NOT NULL CHECK (reserved >= 0),
    settled INTEGER CHECK (settled >= 0),
    at REAL NOT NULL,
    settled_at REAL
) STRICT;
CREATE INDEX ledger_at ON ledger (at);
CREATE TABLE keys (
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    call TEXT NOT NULL,
    job TEXT,
    at REAL NOT NULL,
    PRIMARY KEY (principal, key)
) STRICT;
CREATE TABLE models (
    name TEXT PRIMARY KEY,
    entry TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;
CREATE TABLE aliases (
    name TEXT PRIMARY KEY,
    weights TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;
CREATE TABLE artifacts (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    path TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    meta TEXT NOT NULL,
    parents TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;
CREATE INDEX artifacts_name ON artifacts (kind, name);
CREATE TABLE reports (
    id TEXT PRIMARY KEY,
    suite TEXT NOT NULL,
    model TEXT NOT NULL,
    label TEXT NOT NULL,
    report TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    plan TEXT NOT NULL,
    source TEXT NOT NULL,
    params TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    principal TEXT NOT NULL,
    surface TEXT NOT NULL,
    cwd TEXT NOT NULL,
    created_at REAL NOT NULL,
    ended_at REAL
) STRICT;
CREATE TABLE steps (
    run TEXT NOT NULL REFERENCES runs (id),
    step TEXT NOT NULL,
    state TEXT NOT NULL,
    job TEXT,
    arguments TEXT,
    result TEXT,
    reason TEXT NOT NULL DEFAULT '',
    started_at REAL,
    ended_at REAL,
    PRIMARY KEY (run, step)
) STRICT;
CREATE TABLE requests (
    id TEXT PRIMARY KEY,
    asked TEXT NOT NULL,
    model TEXT NOT NULL,
    why TEXT NOT NULL,
    principal TEXT NOT NULL,
    status TEXT NOT NULL,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    micro_usd INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0,
    at REAL NOT NULL
) STRICT;
CREATE TABLE tokens (
    hash TEXT PRIMARY KEY,
    principal TEXT NOT NULL,
    role TEXT NOT NULL,
    note TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL
) STRICT
"""


@migration
def ledger_of_projects(db: Database) -> None:
    """Ledger entries know attempt and project, and may be leases; whoever pays has a project."""
    for statement in _LEDGER_OF_PROJECTS.split(";\n"):
        if statement.strip():
            db.conn.execute(statement)


_LEDGER_OF_PROJECTS = """
CREATE TABLE entries (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('job', 'tokens', 'lease')),
    subject TEXT NOT NULL,
    attempt TEXT NOT NULL,
    principal TEXT NOT NULL,
    project TEXT NOT NULL,
    reserved INTEGER NOT NULL CHECK (reserved >= 0),
    settled INTEGER CHECK (settled >= 0),
    at REAL NOT NULL,
    settled_at REAL
) STRICT;
INSERT INTO entries
    SELECT id, kind, subject, '', principal, 'default', reserved, settled, at, settled_at FROM ledger;
DROP TABLE ledger;
ALTER TABLE entries RENAME TO ledger;
CREATE INDEX ledger_at ON ledger (at);
CREATE INDEX ledger_settled ON ledger (settled_at, settled, principal, project);
CREATE INDEX ledger_open ON ledger (subject) WHERE settled IS NULL;
ALTER TABLE jobs ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE runs ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE tokens ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN charged TEXT NOT NULL DEFAULT ''
"""


@migration
def causes_and_attempts(db: Database) -> None:
    """Why a job or attempt ended, how long it took by a clock that nobody sets, and which attempt it was."""
    for table, column in (
        ("jobs", "cause TEXT"),
        ("jobs", "seconds REAL"),
        ("attempts", "number INTEGER NOT NULL DEFAULT 1"),
        ("attempts", "cause TEXT"),
        ("attempts", "reason TEXT NOT NULL DEFAULT ''"),
        ("attempts", "seconds REAL"),
    ):
        db.conn.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    db.conn.execute(
        "UPDATE jobs SET seconds = ended_at - started_at"
        " WHERE started_at IS NOT NULL AND ended_at > started_at"
    )


@migration
def journal_is_append_only(db: Database) -> None:
    """What is in the journal stays as it is, and what comes in follows what is there."""
    for statement in (
        "CREATE TRIGGER journal_keeps BEFORE UPDATE ON journal"
        " BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END",
        "CREATE TRIGGER journal_keeps_all BEFORE DELETE ON journal"
        " BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END",
        "CREATE TRIGGER journal_goes_on BEFORE INSERT ON journal"
        " WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM journal)"
        " OR NEW.previous IS NOT coalesce((SELECT hash FROM journal ORDER BY seq DESC LIMIT 1), NEW.previous)"
        " BEGIN SELECT RAISE(ABORT, 'an entry of the journal follows the last one'); END",
    ):
        db.conn.execute(statement)


@migration
def judgements(db: Database) -> None:
    """What somebody said about something: a reviewer about a row, a client about an answer."""
    db.conn.execute(
        "CREATE TABLE judgements (subject TEXT NOT NULL, item TEXT NOT NULL, author TEXT NOT NULL,"
        " principal TEXT NOT NULL, verdict TEXT NOT NULL, value TEXT, note TEXT NOT NULL, at REAL NOT NULL,"
        " PRIMARY KEY (subject, item, author)) STRICT"
    )


@migration
def answers(db: Database) -> None:
    """Approvals know what they are bound to and who answered, jobs the role they were asked for with."""
    for statement in _ANSWERS.split(";\n"):
        db.conn.execute(statement)


_ANSWERS = """
ALTER TABLE approvals ADD COLUMN bound TEXT NOT NULL DEFAULT '{}';
ALTER TABLE approvals ADD COLUMN people INTEGER NOT NULL DEFAULT 1;
ALTER TABLE approvals ADD COLUMN requester_may_answer INTEGER NOT NULL DEFAULT 1;
ALTER TABLE jobs ADD COLUMN role TEXT NOT NULL DEFAULT 'operate';
CREATE TABLE answers (
    id TEXT PRIMARY KEY,
    approval TEXT NOT NULL REFERENCES approvals (id),
    person TEXT NOT NULL,
    principal TEXT NOT NULL,
    surface TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('approve', 'deny')),
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    UNIQUE (approval, person, verdict)
) STRICT
"""


@migration
def estimates(db: Database) -> None:
    """What tools estimate is kept beside what was quoted and what it took, and quotes learn from it."""
    for column in ("estimate TEXT", "max_rss_bytes INTEGER"):
        db.conn.execute(f"ALTER TABLE jobs ADD COLUMN {column}")
    db.conn.execute("ALTER TABLE tokens ADD COLUMN allowance INTEGER")
    db.conn.execute("CREATE INDEX ledger_subject ON ledger (subject)")


@migration
def tokens_of_people(db: Database) -> None:
    """Tokens have ids to be revoked by, and say whether a person holds them, who made them, and their use."""
    for column in (
        "id TEXT NOT NULL DEFAULT ''",
        "is_person INTEGER NOT NULL DEFAULT 0",
        "created_by TEXT NOT NULL DEFAULT 'daemon'",
        "used_at REAL",
    ):
        db.conn.execute(f"ALTER TABLE tokens ADD COLUMN {column}")
    db.conn.execute("UPDATE tokens SET id = 'tok-' || substr(hash, 1, 12), is_person = note = 'owner'")
    db.conn.execute("CREATE UNIQUE INDEX tokens_id ON tokens (id)")


@migration
def claims(db: Database) -> None:
    """A launch finds its approval, and what is set aside, without looking through all there are."""
    for statement in (
        "CREATE INDEX approvals_job ON approvals (job, created_at)",
        "DROP INDEX ledger_open",
        "CREATE INDEX ledger_open ON ledger (subject, reserved, principal, project) WHERE settled IS NULL",
    ):
        db.conn.execute(statement)


@migration
def notifiers(db: Database) -> None:
    """How far each notifier has told the journal."""
    db.conn.execute(
        "CREATE TABLE notifiers (name TEXT PRIMARY KEY, since INTEGER NOT NULL, told INTEGER NOT NULL,"
        " claimed INTEGER, delivered INTEGER NOT NULL DEFAULT 0, delivered_at REAL,"
        " failures INTEGER NOT NULL DEFAULT 0, failing_since REAL, problem TEXT NOT NULL DEFAULT '') STRICT"
    )


@migration
def requests_of_projects(db: Database) -> None:
    """A request knows its project: who may say something about it."""
    db.conn.execute("ALTER TABLE requests ADD COLUMN project TEXT NOT NULL DEFAULT 'default'")


@migration
def answers_in_clients(db: Database) -> None:
    """A question says whether an answer given in the asking client counts."""
    db.conn.execute("ALTER TABLE approvals ADD COLUMN client_may_answer INTEGER NOT NULL DEFAULT 0")


@migration
def routes(db: Database) -> None:
    """A request says how it came to its answer; an alias, how it chooses; a token, what it is good for."""
    for statement in (
        "ALTER TABLE requests ADD COLUMN trace TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE aliases ADD COLUMN choosing TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE tokens ADD COLUMN models TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE tokens ADD COLUMN per_minute INTEGER",
    ):
        db.conn.execute(statement)


@migration
def rollouts(db: Database) -> None:
    """An alias may move to another model by stages."""
    for statement in (
        "CREATE TABLE rollouts (id TEXT PRIMARY KEY, alias TEXT NOT NULL, model TEXT NOT NULL,"
        " state TEXT NOT NULL, stage INTEGER NOT NULL, plan TEXT NOT NULL, watched TEXT NOT NULL,"
        " why TEXT NOT NULL, waits INTEGER NOT NULL DEFAULT 0, principal TEXT NOT NULL,"
        " started_at REAL NOT NULL, stage_at REAL NOT NULL, ended_at REAL) STRICT",
        "CREATE INDEX rollouts_alias ON rollouts (alias, model)",
    ):
        db.conn.execute(statement)


@migration
def taints(db: Database) -> None:
    """What a context has read that is not to be trusted; jobs keep what led to them."""
    db.conn.execute(
        "CREATE TABLE taints (context TEXT NOT NULL, source TEXT NOT NULL, at REAL NOT NULL,"
        " PRIMARY KEY (context, source)) STRICT"
    )
    db.conn.execute("ALTER TABLE jobs ADD COLUMN taint TEXT NOT NULL DEFAULT '[]'")


@migration
def goals(db: Database) -> None:
    """A run may pursue a goal: what was said in it, turn by turn, what it may take, and how it ended."""
    for statement in (
        "ALTER TABLE runs ADD COLUMN kind TEXT NOT NULL DEFAULT 'plan'",
        "ALTER TABLE runs ADD COLUMN options TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE runs ADD COLUMN outcome TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE steps ADD COLUMN tool TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE steps ADD COLUMN turn INTEGER",
        "ALTER TABLE steps ADD COLUMN outcome TEXT NOT NULL DEFAULT ''",
        "CREATE TABLE turns (run TEXT NOT NULL REFERENCES runs (id), turn INTEGER NOT NULL,"
        " messages TEXT NOT NULL, opens INTEGER NOT NULL, model TEXT NOT NULL, request TEXT NOT NULL,"
        " micro_usd INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,"
        " seconds REAL NOT NULL, at REAL NOT NULL, PRIMARY KEY (run, turn)) STRICT",
        "CREATE TABLE said (run TEXT NOT NULL REFERENCES runs (id), number INTEGER NOT NULL,"
        " text TEXT NOT NULL, by TEXT NOT NULL, at REAL NOT NULL, turn INTEGER,"
        " PRIMARY KEY (run, number)) STRICT",
    ):
        db.conn.execute(statement)
