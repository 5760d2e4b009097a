-- +goose Up
-- Who put a configuration into force, whence, and what the plan said of it (JSON of plan.Summary; NULL: no plan was made).
ALTER TABLE configs ADD COLUMN by_whom   TEXT NOT NULL DEFAULT '';
ALTER TABLE configs ADD COLUMN origin    TEXT NOT NULL DEFAULT '';
ALTER TABLE configs ADD COLUMN directory TEXT NOT NULL DEFAULT '';
ALTER TABLE configs ADD COLUMN reason    TEXT NOT NULL DEFAULT '';
ALTER TABLE configs ADD COLUMN summary   TEXT;
