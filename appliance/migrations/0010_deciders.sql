-- Who decided, by id: a name is not theirs alone, and may change before they are removed.
ALTER TABLE runs ADD COLUMN decider TEXT NOT NULL DEFAULT '';      -- user id; '' for the console
ALTER TABLE leases ADD COLUMN giver TEXT NOT NULL DEFAULT '';
