-- What a person should know of a proposal before they decide: in its conversation, and on the card of a command.
ALTER TABLE proposals ADD COLUMN tainted INTEGER NOT NULL DEFAULT 0;  -- the assistant had read what others may have written
ALTER TABLE proposals ADD COLUMN picked  INTEGER NOT NULL DEFAULT 0;  -- of a command: a line of an answer that a person chose to run
ALTER TABLE runs ADD COLUMN tainted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN picked  INTEGER NOT NULL DEFAULT 0;
