-- How the machine and its services have been, and where people last were in the workspace.
-- Kept by number of rows, not by time: a clock that jumps a year ahead must not empty the tables (R9).
CREATE TABLE telemetry_fine (                  -- ten seconds a row, for a day
    seq          INTEGER PRIMARY KEY,
    at           INTEGER NOT NULL,             -- Unix seconds at which the row begins
    jump         REAL,                         -- seconds the clock was set by just before
    cpu          REAL,                         -- percent of the whole machine
    steal        REAL,                         -- percent taken by the host's other guests
    load         REAL,
    memory       REAL,                         -- bytes in use
    pressure     REAL,                         -- percent of time in which something waited for memory
    swap         REAL,                         -- bytes in use
    swapping     REAL,                         -- bytes a second, both ways
    disk         REAL,                         -- bytes in use
    disk_read    REAL,                         -- bytes a second
    disk_write   REAL,
    net_in       REAL,                         -- bytes a second
    net_out      REAL,
    cpu_proxy    REAL,                         -- percent of one core
    cpu_ide      REAL,
    cpu_ai       REAL,
    memory_proxy REAL,                         -- bytes in use
    memory_ide   REAL,
    memory_ai    REAL
) STRICT;
CREATE INDEX telemetry_fine_at ON telemetry_fine (at);

CREATE TABLE telemetry_long (                  -- ten minutes a pair of rows, for thirty days
    seq          INTEGER PRIMARY KEY,
    at           INTEGER NOT NULL,
    peak         INTEGER NOT NULL,             -- 0: the mean of these ten minutes, 1: the highest of their rows
    upto         INTEGER NOT NULL,             -- seq of the last fine row that has been rolled up
    jump         REAL,
    cpu          REAL,
    steal        REAL,
    load         REAL,
    memory       REAL,
    pressure     REAL,
    swap         REAL,
    swapping     REAL,
    disk         REAL,
    disk_read    REAL,
    disk_write   REAL,
    net_in       REAL,
    net_out      REAL,
    cpu_proxy    REAL,
    cpu_ide      REAL,
    cpu_ai       REAL,
    memory_proxy REAL,
    memory_ide   REAL,
    memory_ai    REAL
) STRICT;
CREATE INDEX telemetry_long_at ON telemetry_long (at);

CREATE TABLE visits (
    user_id TEXT PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    at      REAL NOT NULL,
    target  TEXT NOT NULL                      -- path on the IDE host that was asked for
) STRICT;
