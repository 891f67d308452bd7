-- What each user of the assistant's engine has used on a day, and how much of its burst it has left.
CREATE TABLE ai_use (
    subject    TEXT NOT NULL,                  -- "token:ID", "workspace:USER", "workspace", "chat:USER", ...
    day        TEXT NOT NULL,                  -- YYYY-MM-DD, in UTC
    person     TEXT NOT NULL,                  -- user id; '' for the workspace as a whole
    requests   INTEGER NOT NULL,
    tokens_in  INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    refused    INTEGER NOT NULL,               -- requests that a limit turned away
    told       TEXT NOT NULL,                  -- JSON: the same four numbers as the audit log has them
    PRIMARY KEY (subject, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX ai_use_day ON ai_use (day);

CREATE TABLE ai_rate (
    subject TEXT PRIMARY KEY,
    level   REAL NOT NULL,                     -- requests it may still make at once ...
    at      REAL NOT NULL                      -- ... at this Unix time
) STRICT, WITHOUT ROWID;
