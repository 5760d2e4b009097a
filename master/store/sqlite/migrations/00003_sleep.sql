-- +goose Up
-- Instances that are switched off, what they are and what they cost meanwhile. power is a number of core/latent, slept is in microseconds, facts is JSON.
ALTER TABLE instances ADD COLUMN stopped_price DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN power         BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN power_at      BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN slept         BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN detail        TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN facts         TEXT;

-- Of what class a worker's last failure was, and how many of that class there were in a row.
ALTER TABLE workers ADD COLUMN fail_class  TEXT NOT NULL DEFAULT '';
ALTER TABLE workers ADD COLUMN class_tries BIGINT NOT NULL DEFAULT 0;
