-- What the assistant proposed and a person decides.
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
-- Nothing of a conversation outlives it, whoever deletes it.
CREATE TRIGGER proposals_gone AFTER DELETE ON conversations BEGIN
    DELETE FROM proposals WHERE conversation = OLD.id;
END;
