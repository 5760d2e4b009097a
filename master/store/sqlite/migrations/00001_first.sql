-- +goose Up
-- Times are microseconds since 1970 in UTC; 0 is "never". JSON is text. Enumerations are the numbers of master/model and master/core.

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

-- One row: numbers that must never be used twice, also after Prune has removed the rows that used them.
CREATE TABLE counters (
  id          INTEGER PRIMARY KEY CHECK (id = 1),
  next_build  BIGINT NOT NULL,
  next_op     BIGINT NOT NULL,
  max_request BIGINT NOT NULL
);
INSERT INTO counters (id, next_build, next_op, max_request) VALUES (1, 1, 1, 0);

CREATE TABLE configs (
  generation INTEGER PRIMARY KEY,
  applied_at BIGINT NOT NULL,
  files      TEXT NOT NULL,
  variables  TEXT NOT NULL
);

CREATE TABLE requests (
  id           INTEGER PRIMARY KEY,
  builder      TEXT   NOT NULL,
  priority     BIGINT NOT NULL,
  reason       TEXT   NOT NULL,
  scheduler    TEXT   NOT NULL,
  owner        TEXT   NOT NULL,
  source       TEXT,
  properties   TEXT,
  worker       TEXT   NOT NULL,
  parent       BIGINT NOT NULL,
  generation   BIGINT NOT NULL,
  submitted_at BIGINT NOT NULL,
  source_key   TEXT   NOT NULL,
  state        BIGINT NOT NULL,
  attempts     BIGINT NOT NULL,
  build        BIGINT NOT NULL,
  result       BIGINT NOT NULL,
  text         TEXT   NOT NULL,
  finished_at  BIGINT NOT NULL
);
CREATE INDEX requests_live ON requests (id) WHERE state <> 2;

-- request is the first of the build's requests. All of them, in order, are in requests (numbers, separated by spaces) if they are more than one.
CREATE TABLE builds (
  id          INTEGER PRIMARY KEY,
  request     BIGINT NOT NULL,
  requests    TEXT,
  builder     TEXT   NOT NULL,
  worker      TEXT   NOT NULL,
  instance    TEXT   NOT NULL,
  generation  BIGINT NOT NULL,
  attempt     BIGINT NOT NULL,
  phase       BIGINT NOT NULL,
  assigned_at BIGINT NOT NULL,
  started_at  BIGINT NOT NULL,
  finished_at BIGINT NOT NULL,
  result      BIGINT NOT NULL,
  text        TEXT   NOT NULL,
  cancelling  TEXT   NOT NULL,
  properties  TEXT
);
CREATE INDEX builds_live ON builds (id) WHERE phase <> 2;
CREATE INDEX builds_request ON builds (request);
CREATE INDEX builds_builder ON builds (builder, id);
CREATE INDEX builds_worker ON builds (worker, id);

-- The second and later requests of builds that serve several.
CREATE TABLE collapsed (
  request BIGINT NOT NULL,
  build   BIGINT NOT NULL,
  PRIMARY KEY (request, build)
) WITHOUT ROWID;
CREATE INDEX collapsed_build ON collapsed (build);

CREATE TABLE steps (
  build       BIGINT NOT NULL,
  number      BIGINT NOT NULL,
  name        TEXT   NOT NULL,
  kind        TEXT   NOT NULL,
  started_at  BIGINT NOT NULL,
  finished_at BIGINT NOT NULL,
  result      BIGINT NOT NULL,
  text        TEXT   NOT NULL,
  logs        TEXT,
  state       BLOB,
  PRIMARY KEY (build, number)
) WITHOUT ROWID;

CREATE TABLE workers (
  name          TEXT PRIMARY KEY,
  generation    BIGINT NOT NULL,
  tries         BIGINT NOT NULL,
  backoff_until BIGINT NOT NULL,
  last_error    TEXT   NOT NULL,
  paused        TEXT   NOT NULL,
  seen_at       BIGINT NOT NULL
) WITHOUT ROWID;

CREATE TABLE instances (
  n             INTEGER PRIMARY KEY,
  key           TEXT   NOT NULL UNIQUE,
  worker        TEXT   NOT NULL,
  provider      TEXT   NOT NULL,
  provider_id   TEXT   NOT NULL,
  spec          TEXT   NOT NULL,
  price         DOUBLE PRECISION NOT NULL,
  asked_at      BIGINT NOT NULL,
  resolved      BIGINT NOT NULL,
  unresolved_at BIGINT NOT NULL,
  booted_at     BIGINT NOT NULL,
  attached_at   BIGINT NOT NULL,
  lost_at       BIGINT NOT NULL,
  agent         TEXT   NOT NULL,
  served        BIGINT NOT NULL,
  doomed        BIGINT NOT NULL,
  doomed_at     BIGINT NOT NULL,
  reason        TEXT   NOT NULL,
  destroy_tries BIGINT NOT NULL,
  gone_at       BIGINT NOT NULL
);
CREATE INDEX instances_worker ON instances (worker, n);
CREATE INDEX instances_live ON instances (n) WHERE gone_at = 0;

-- Each row is in one index at most: a trace finds a request's builds first, then the rows of those, then the rows of their instances.
CREATE TABLE journal (
  seq        INTEGER PRIMARY KEY,
  time       BIGINT NOT NULL,
  event      TEXT   NOT NULL,
  kind       TEXT   NOT NULL,
  request    BIGINT NOT NULL,
  build      BIGINT NOT NULL,
  worker     TEXT   NOT NULL,
  instance   TEXT   NOT NULL,
  op         BIGINT NOT NULL,
  from_state TEXT   NOT NULL,
  to_state   TEXT   NOT NULL,
  cause      TEXT   NOT NULL
);
CREATE INDEX journal_request ON journal (request) WHERE request <> 0 AND build = 0;
CREATE INDEX journal_build ON journal (build) WHERE build <> 0;
CREATE INDEX journal_instance ON journal (instance) WHERE instance <> '' AND build = 0 AND request = 0;
