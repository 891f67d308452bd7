-- People, ways in, what services should be doing, and the audit chain.
CREATE TABLE users (
    id           TEXT PRIMARY KEY,
    email        TEXT NOT NULL COLLATE NOCASE UNIQUE,
    name         TEXT NOT NULL,
    role         TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    language     TEXT NOT NULL DEFAULT '',
    theme        TEXT NOT NULL DEFAULT '',
    created_at   REAL NOT NULL,
    suspended_at REAL
) STRICT;

CREATE TABLE sessions (
    id          TEXT PRIMARY KEY,
    hash        BLOB NOT NULL UNIQUE,          -- SHA-256 of the cookie; the cookie itself is never stored
    user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    remember    INTEGER NOT NULL,
    agent       TEXT NOT NULL,
    address     TEXT NOT NULL,
    created_at  REAL NOT NULL,
    age         REAL NOT NULL,                 -- seconds lived when last saved, by the clock that cannot jump
    since_auth  REAL NOT NULL,                 -- seconds since the last proof of identity, likewise
    seen_at     REAL NOT NULL,                 -- wall clock at the last activity
    seen_uptime REAL NOT NULL,
    boot_id     TEXT NOT NULL,
    ide_hash    BLOB UNIQUE                    -- SHA-256 of the IDE host's own cookie, a child of this session
) STRICT;
CREATE INDEX sessions_user ON sessions (user_id);

CREATE TABLE links (
    hash       BLOB PRIMARY KEY,
    kind       TEXT NOT NULL CHECK (kind IN ('setup', 'login')),
    user_id    TEXT REFERENCES users (id) ON DELETE CASCADE,
    created_at REAL NOT NULL,
    uptime     REAL NOT NULL,
    boot_id    TEXT NOT NULL,
    lifetime   REAL NOT NULL,
    used_at    REAL
) STRICT;

CREATE TABLE devices (
    hash       BLOB PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at REAL NOT NULL
) STRICT;

CREATE TABLE bans (
    key      TEXT PRIMARY KEY,
    failures TEXT NOT NULL,                    -- JSON list of wall-clock times
    until    REAL NOT NULL,
    level    INTEGER NOT NULL
) STRICT;

CREATE TABLE used_tokens (
    jti        TEXT PRIMARY KEY,
    expires_at REAL NOT NULL
) STRICT;

CREATE TABLE service_wishes (
    service TEXT PRIMARY KEY,
    wish    TEXT NOT NULL,
    at      REAL NOT NULL
) STRICT;

CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY,
    at      REAL NOT NULL,
    uptime  REAL NOT NULL,
    boot_id TEXT NOT NULL,
    event   TEXT NOT NULL,
    actor   TEXT NOT NULL,
    detail  TEXT NOT NULL,
    intent  INTEGER,                           -- an outcome names the record that announced it
    hash    BLOB NOT NULL
) STRICT;
CREATE INDEX audit_intent ON audit (intent) WHERE intent IS NOT NULL;

CREATE TABLE audit_checkpoints (
    seq       INTEGER PRIMARY KEY,
    at        REAL NOT NULL,
    hash      BLOB NOT NULL,
    signature BLOB NOT NULL
) STRICT;
