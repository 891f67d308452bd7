-- Conversations with the assistant: trees of messages, each one person's own, and the words in them for searching.
CREATE TABLE conversations (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,  -- its messages lie at (seq << 20) + 1 and up, its title's words at seq << 20
    id         TEXT NOT NULL UNIQUE,
    owner      TEXT NOT NULL,                      -- user id, or 'console'
    title      TEXT NOT NULL DEFAULT '',
    named      INTEGER NOT NULL DEFAULT 0,         -- 1: a person chose the title, so no model changes it
    pinned     INTEGER NOT NULL DEFAULT 0,
    archived   INTEGER NOT NULL DEFAULT 0,
    chosen     INTEGER,                            -- place of the first message on the active path
    created_at REAL NOT NULL,
    changed_at REAL NOT NULL
) STRICT;
CREATE INDEX conversations_listed ON conversations (owner, archived, pinned, changed_at, seq);
CREATE INDEX conversations_old ON conversations (changed_at) WHERE pinned = 0;

CREATE TABLE messages (
    place       INTEGER PRIMARY KEY,               -- those of one conversation lie side by side
    id          TEXT NOT NULL UNIQUE,
    parent      INTEGER,                           -- place of what it follows; siblings are edits, or other answers
    chosen      INTEGER,                           -- place of what follows it on the active path
    role        TEXT NOT NULL CHECK (role IN ('user', 'assistant', 'tool', 'summary')),
    text        TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('done', 'running', 'stopped', 'failed', 'interrupted')),
    model       TEXT NOT NULL,
    usage       TEXT NOT NULL,                     -- JSON: tokens in and out, seconds
    context     TEXT NOT NULL,                     -- JSON: what was sent along: kind, path, text
    steps       TEXT NOT NULL,                     -- JSON: what the model did on the way to its answer
    created_at  REAL NOT NULL,
    finished_at REAL
) STRICT;
CREATE INDEX messages_running ON messages (place) WHERE state = 'running';

-- Folded words; the rowid is the place. `owner` is one word too, so that a search never meets what others wrote.
CREATE VIRTUAL TABLE conversation_words USING fts5 (
    owner, words, forms, tokenize = "unicode61 remove_diacritics 0", prefix = '1 2 3', columnsize = 0
);
