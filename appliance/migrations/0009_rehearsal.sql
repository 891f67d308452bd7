-- Rehearsals: what became of each, and where the list of its changes lies in the file that keeps them.
CREATE TABLE rehearsals (
    run        TEXT PRIMARY KEY,
    state      TEXT NOT NULL CHECK (state IN ('running', 'ready', 'empty', 'applying', 'applied', 'undoing', 'undone',
                                              'discarded', 'expired', 'lost')),
    cause      TEXT NOT NULL DEFAULT '',       -- why it cannot be applied, or why nothing is left
    digest     TEXT NOT NULL DEFAULT '',       -- SHA-256 of the list of changes: what a person agrees to
    changes    INTEGER NOT NULL DEFAULT 0,
    list_at    INTEGER NOT NULL DEFAULT 0,     -- bytes into the file
    list_size  INTEGER NOT NULL DEFAULT 0,
    bytes      INTEGER NOT NULL DEFAULT 0,     -- of the file
    created_at REAL NOT NULL,
    ready_at   REAL,
    applied_at REAL,
    undone_at  REAL,
    intent     INTEGER                         -- the audit record that announced the merge under way
) STRICT;
