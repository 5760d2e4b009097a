-- +goose Up
-- What a build that is not done holds (JSON of []core.Access; NULL: nothing): locks that a later configuration has not, too.
ALTER TABLE builds ADD COLUMN locks TEXT;
