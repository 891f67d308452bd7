-- Ways in by mail, invitations, and when people were last here.
ALTER TABLE users ADD COLUMN seen_at REAL;     -- wall clock at the last activity of any of their sessions

-- Requests for a sign-in mail. A row is written for unknown addresses too: asking must cost the same (AUTH-5).
CREATE TABLE mailed (
    hash       BLOB PRIMARY KEY,               -- SHA-256 of the link's secret
    browser    BLOB NOT NULL,                  -- SHA-256 of the cookie of the browser that asked
    code       BLOB NOT NULL,                  -- HMAC of the code under that cookie, which is not stored
    address    TEXT NOT NULL,                  -- as it was typed, to be shown to that browser again
    user_id    TEXT REFERENCES users (id) ON DELETE CASCADE,   -- NULL: nothing was sent
    remember   INTEGER NOT NULL,
    tries      INTEGER NOT NULL DEFAULT 0,     -- codes typed so far
    created_at REAL NOT NULL,
    uptime     REAL NOT NULL,
    boot_id    TEXT NOT NULL,
    lifetime   REAL NOT NULL,
    used_at    REAL
) STRICT;
CREATE INDEX mailed_browser ON mailed (browser);

CREATE TABLE invitations (
    id          TEXT PRIMARY KEY,
    hash        BLOB NOT NULL UNIQUE,          -- SHA-256 of the link's secret; the latest link alone works
    email       TEXT NOT NULL COLLATE NOCASE,
    role        TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    note        TEXT NOT NULL,
    language    TEXT NOT NULL,
    inviter_id  TEXT REFERENCES users (id) ON DELETE SET NULL, -- NULL: removed since, or the console
    inviter     TEXT NOT NULL,                 -- their name then; '' for the console
    by_console  INTEGER NOT NULL,
    created_at  REAL NOT NULL,
    sent_at     REAL NOT NULL,                 -- when the latest link was made
    expires_at  REAL NOT NULL,
    accepted_at REAL,
    revoked_at  REAL
) STRICT;
-- One open invitation an address.
CREATE UNIQUE INDEX invitations_open ON invitations (email) WHERE accepted_at IS NULL AND revoked_at IS NULL;
