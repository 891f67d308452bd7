-- Long work that people watch, pause and cancel, and that goes on after a restart. One table for every kind of it.
CREATE TABLE jobs (
    id         TEXT PRIMARY KEY,               -- "job-" and 16 hex digits
    kind       TEXT NOT NULL,                  -- whose work it is: "model.pull", ...
    subject    TEXT NOT NULL,                  -- what it is done to, as people name it
    params     TEXT NOT NULL,                  -- JSON, what the kind's handler needs to begin and to go on
    actor      TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('queued', 'running', 'paused', 'done', 'failed', 'cancelled')),
    phase      TEXT NOT NULL DEFAULT '',       -- a word of the kind's own
    current    INTEGER NOT NULL DEFAULT 0,
    total      INTEGER NOT NULL DEFAULT 0,     -- 0 while nobody knows
    attempt    INTEGER NOT NULL DEFAULT 0,     -- how often it was begun; more than once after a restart or a pause
    code       TEXT NOT NULL DEFAULT '',       -- why it failed: a code for words in the catalogue
    cause      TEXT NOT NULL DEFAULT '',       -- and what exactly was said
    result     TEXT NOT NULL DEFAULT '{}',     -- JSON, what came of it
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at   REAL
) STRICT;
CREATE INDEX jobs_unfinished ON jobs (created_at) WHERE state IN ('queued', 'running', 'paused');
CREATE INDEX jobs_created ON jobs (created_at);

-- The models in the models folder that Croft has checked, and what was measured of each on this machine.
CREATE TABLE models (
    file       TEXT PRIMARY KEY,               -- its name in the models folder
    name       TEXT NOT NULL,                  -- id in our catalogue, or what whoever added it called it
    sha256     TEXT NOT NULL,
    size       INTEGER NOT NULL,               -- bytes
    url        TEXT NOT NULL,                  -- where it came from; '' for a file that was put there
    added_at   REAL NOT NULL,
    speed      REAL,                           -- tokens a second while answering
    speed_at   REAL,
    checkup    TEXT NOT NULL DEFAULT ''        -- JSON: what the small coding tasks gave; '' before
) STRICT;

-- What a source without a published digest gave the first time; every later download has to be the same.
CREATE TABLE model_digests (
    url     TEXT PRIMARY KEY,
    sha256  TEXT NOT NULL,
    seen_at REAL NOT NULL
) STRICT;
