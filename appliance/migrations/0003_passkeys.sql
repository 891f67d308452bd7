-- What people prove who they are with when no mail is set up, and the browsers they are known by.
CREATE TABLE passkeys (
    id         TEXT PRIMARY KEY,
    credential BLOB NOT NULL UNIQUE,           -- the authenticator's own id for it
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    public_key BLOB NOT NULL,                  -- COSE_Key
    sign_count INTEGER NOT NULL,               -- 0 for ever where an authenticator does not count
    name       TEXT NOT NULL,
    transports TEXT NOT NULL,                  -- JSON list of how a browser reaches it
    synced     INTEGER NOT NULL,               -- a copy is kept by a password manager or an account
    created_at REAL NOT NULL,
    used_at    REAL,
    suspect_at REAL                            -- its counter went back: there may be a copy; refused since
) STRICT;
CREATE INDEX passkeys_user ON passkeys (user_id);

CREATE TABLE recovery_codes (
    hash       BLOB PRIMARY KEY,               -- SHA-256 of 80 random bits; a used one is deleted
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at REAL NOT NULL
) STRICT;
CREATE INDEX recovery_codes_user ON recovery_codes (user_id);

ALTER TABLE devices ADD COLUMN agent TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN address TEXT NOT NULL DEFAULT '';
