-- +goose Up
-- Where an instance lives, of the hosts that its provider has, and what it takes there, as it was configured when it was made. memory is in bytes.
ALTER TABLE instances ADD COLUMN place  TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN vcpus  BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN memory BIGINT NOT NULL DEFAULT 0;
