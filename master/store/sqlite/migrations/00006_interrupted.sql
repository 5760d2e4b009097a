-- +goose Up
-- How often the request has lost its instance because the provider took that back.
ALTER TABLE requests ADD COLUMN interrupted BIGINT NOT NULL DEFAULT 0;
