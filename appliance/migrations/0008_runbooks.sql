-- Saved commands with typed parameters, when they run by themselves, and which runs came of them.
CREATE TABLE runbooks (
    name       TEXT PRIMARY KEY,               -- as people type it: small letters, digits and "-"
    title_en   TEXT NOT NULL,
    title_ar   TEXT NOT NULL,
    about_en   TEXT NOT NULL,
    about_ar   TEXT NOT NULL,
    line       TEXT NOT NULL,                  -- as typed, with {parameters} that stand for whole words
    cwd        TEXT NOT NULL,
    parameters TEXT NOT NULL,                  -- JSON: [[name, type, label], ...]
    role       TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    schedule   TEXT NOT NULL,                  -- '' for none
    next_at    REAL,                           -- Unix seconds of the next run by itself
    owner      TEXT NOT NULL,                  -- id of who saved it: a scheduled run is asked for in their name
    changed_at REAL NOT NULL
) STRICT;

CREATE TABLE runbook_runs (
    run       TEXT PRIMARY KEY,
    book      TEXT NOT NULL REFERENCES runbooks (name) ON DELETE CASCADE,
    at        REAL NOT NULL,
    scheduled INTEGER NOT NULL
) STRICT;
CREATE INDEX runbook_runs_book ON runbook_runs (book, at);
