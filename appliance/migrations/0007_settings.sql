-- What an admin changed on the settings page, and what a person was shown once and need not see again.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL,                       -- JSON
    at    REAL NOT NULL,
    actor TEXT NOT NULL
) STRICT;

CREATE TABLE hints (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name    TEXT NOT NULL,
    state   TEXT NOT NULL,                     -- how far a person is with it; 'done' is the end
    at      REAL NOT NULL,
    PRIMARY KEY (user_id, name)
) STRICT;
