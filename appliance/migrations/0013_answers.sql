-- What the assistant proposed to write, and how much of it each person had on each day.
CREATE TABLE proposals (
    id           TEXT PRIMARY KEY,
    conversation TEXT NOT NULL,
    message      TEXT NOT NULL,                -- the answer it came with
    owner        TEXT NOT NULL,                -- user id, or 'console'
    kind         TEXT NOT NULL CHECK (kind IN ('write', 'command')),
    state        TEXT NOT NULL CHECK (state IN ('open', 'writing', 'accepted', 'rejected', 'stale', 'failed')),
    run          TEXT NOT NULL DEFAULT '',     -- of a command: what became of it is the run's to say
    path         TEXT NOT NULL DEFAULT '',     -- beneath the workspace, links followed when it was proposed
    version      TEXT NOT NULL DEFAULT '',     -- of the file it was made against; '' where there was none
    content      TEXT NOT NULL DEFAULT '',     -- of the file as it would be; emptied once it is decided
    diff         TEXT NOT NULL DEFAULT '',
    intent       INTEGER,                      -- the audit record that announced the write under way
    created_at   REAL NOT NULL,
    decided_at   REAL
) STRICT;
CREATE INDEX proposals_conversation ON proposals (conversation, created_at);

CREATE TABLE assistant_use (
    person  TEXT NOT NULL,                     -- user id, or 'console'
    day     INTEGER NOT NULL,                  -- days since 1970, UTC
    tokens  INTEGER NOT NULL,                  -- read and written by the model
    seconds REAL NOT NULL,                     -- in which it worked
    answers INTEGER NOT NULL,
    PRIMARY KEY (person, day)
) STRICT;
