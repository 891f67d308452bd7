-- Long-lived tokens by which programs act for a person.
CREATE TABLE api_tokens (
    id           TEXT PRIMARY KEY,
    hash         BLOB NOT NULL UNIQUE,         -- SHA-256 of the token; the token itself is never stored
    user_id      TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    note         TEXT NOT NULL,
    scopes       TEXT NOT NULL,                -- separated by spaces
    role         TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),  -- never acts as more than this
    created_at   REAL NOT NULL,
    expires_at   REAL NOT NULL,
    used_at      REAL,
    used_address TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX api_tokens_user ON api_tokens (user_id);
