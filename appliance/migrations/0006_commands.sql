-- Runs with their decisions, leases, and how much of each budget is used.
CREATE TABLE runs (
    id          TEXT PRIMARY KEY,
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'refused', 'denied', 'expired',
                                               'cancelled', 'interrupted', 'killed')),
    actor       TEXT NOT NULL,
    role        TEXT NOT NULL,
    person      TEXT NOT NULL,
    name        TEXT NOT NULL,
    session     TEXT NOT NULL,
    token       TEXT NOT NULL,
    scope       TEXT NOT NULL,
    line        TEXT NOT NULL,                 -- as typed
    typed       TEXT NOT NULL,                 -- JSON: the stages as typed
    stages      TEXT NOT NULL,                 -- JSON: the stages as executed
    cwd         TEXT NOT NULL,
    view        TEXT NOT NULL,
    why         TEXT NOT NULL,                 -- what the asker said, kept apart from what we say
    verdict     TEXT NOT NULL,
    rule        TEXT NOT NULL,
    reason      TEXT NOT NULL,                 -- JSON: key and parameters of a text
    limits      TEXT NOT NULL,                 -- JSON
    policy      TEXT NOT NULL,
    shape       TEXT NOT NULL,
    hash        TEXT NOT NULL,                 -- of the execution an approval is asked for; '' where none is
    leasable    INTEGER NOT NULL,
    created_at  REAL NOT NULL,
    uptime      REAL NOT NULL,                 -- when it was proposed or, once decided, decided: by the clock that cannot jump
    boot_id     TEXT NOT NULL,
    intent      INTEGER,                       -- the audit record that announced the start
    decided_by  TEXT NOT NULL DEFAULT '',
    decided_at  REAL,
    lease       TEXT NOT NULL DEFAULT '',
    started_at  REAL,
    ended_at    REAL,
    outcome     TEXT NOT NULL DEFAULT '{}',    -- JSON: exit status, signal, cause, usage, bytes
    kept        INTEGER NOT NULL DEFAULT 0     -- bytes of output on disk
) STRICT;
CREATE INDEX runs_created ON runs (created_at);
CREATE INDEX runs_open ON runs (state) WHERE state IN ('waiting', 'running');
CREATE INDEX runs_denied ON runs (shape) WHERE state = 'denied';

CREATE TABLE leases (
    id         TEXT PRIMARY KEY,
    hash       TEXT NOT NULL,                  -- of the one execution it is for
    account    TEXT NOT NULL,                  -- whose proposals it lets through
    name       TEXT NOT NULL,
    line       TEXT NOT NULL,
    cwd        TEXT NOT NULL,
    run        TEXT NOT NULL,                  -- the approval it was given with
    given_by   TEXT NOT NULL,
    created_at REAL NOT NULL,
    uptime     REAL NOT NULL,
    boot_id    TEXT NOT NULL,
    lifetime   REAL NOT NULL,
    runs       INTEGER NOT NULL,
    used       INTEGER NOT NULL DEFAULT 0,
    revoked_at REAL
) STRICT;
CREATE INDEX leases_hash ON leases (hash);

CREATE TABLE rates (
    key     TEXT PRIMARY KEY,
    left    REAL NOT NULL,                     -- of the burst
    used    INTEGER NOT NULL,                  -- in the current day
    day     REAL NOT NULL,                     -- seconds into the current day when last used
    at      REAL NOT NULL,                     -- wall clock, to compare across boots
    uptime  REAL NOT NULL,
    boot_id TEXT NOT NULL
) STRICT;
