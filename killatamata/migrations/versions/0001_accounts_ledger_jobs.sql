-- Who.

CREATE TABLE account (
  id uuid PRIMARY KEY,
  name text NOT NULL CHECK (name <> ''),
  concurrency int NOT NULL DEFAULT 20 CHECK (concurrency BETWEEN 1 AND 100000),
  queue_limit int NOT NULL DEFAULT 10000 CHECK (queue_limit >= 1),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE api_key (
  prefix text PRIMARY KEY CHECK (length(prefix) >= 5),
  account_id uuid NOT NULL REFERENCES account,
  label text NOT NULL,
  hash bytea NOT NULL CHECK (length(hash) = 32),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_used_at timestamptz,
  revoked_at timestamptz
);
CREATE INDEX api_key_by_account ON api_key (account_id, created_at);

CREATE TABLE idempotency (
  account_id uuid NOT NULL REFERENCES account,
  route text NOT NULL,
  key text NOT NULL,
  fingerprint bytea NOT NULL,
  status smallint,
  job_id uuid,
  body jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (account_id, route, key)
);

-- Money, in micro-dollars.

CREATE TABLE wallet (
  account_id uuid PRIMARY KEY REFERENCES account,
  available bigint NOT NULL DEFAULT 0 CHECK (available >= 0),
  held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
  debt bigint NOT NULL DEFAULT 0 CHECK (debt >= 0),
  CHECK (available = 0 OR debt = 0)
) WITH (fillfactor = 50);

CREATE TABLE hold (
  id uuid PRIMARY KEY,
  account_id uuid NOT NULL REFERENCES account,
  amount bigint NOT NULL CHECK (amount > 0),
  state text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'captured', 'released')),
  opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  CHECK ((state = 'held') = (ended_at IS NULL))
);
CREATE INDEX hold_open ON hold (opened_at) WHERE state = 'held';

CREATE TABLE movement (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN
    ('topup', 'hold', 'capture', 'release', 'refund', 'chargeback', 'commission', 'payout', 'adjust')),
  business_id text NOT NULL UNIQUE CHECK (business_id <> ''),
  account_id uuid REFERENCES account,
  hold_id uuid REFERENCES hold,
  request_id text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX movement_by_account ON movement (account_id, id);
CREATE INDEX movement_by_hold ON movement (hold_id) WHERE hold_id IS NOT NULL;

-- A credit is positive. The books of a customer are available, held and debt (a debt is a negative sum); the
-- platform's books have no balance row, because updating one on every job costs four times the throughput.
CREATE TABLE entry (
  movement_id bigint NOT NULL REFERENCES movement,
  seq smallint NOT NULL,
  book text NOT NULL CHECK (book IN ('available', 'held', 'debt', 'revenue', 'clearing')),
  account_id uuid REFERENCES account,
  amount bigint NOT NULL CHECK (amount <> 0),
  balance_after bigint,
  PRIMARY KEY (movement_id, seq),
  CHECK ((account_id IS NOT NULL) = (book IN ('available', 'held', 'debt'))),
  CHECK ((account_id IS NOT NULL) = (balance_after IS NOT NULL))
);
CREATE INDEX entry_by_account ON entry (account_id, book) INCLUDE (amount) WHERE account_id IS NOT NULL;

CREATE TABLE price_book (
  version text PRIMARY KEY,
  body jsonb NOT NULL,
  active_from timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX price_book_active ON price_book (active_from);

-- Jobs.

CREATE TABLE session (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  beat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  drain_by timestamptz,
  ended_at timestamptz
) WITH (fillfactor = 50);
CREATE INDEX session_live ON session (id) WHERE ended_at IS NULL;

CREATE TABLE pool (
  name text PRIMARY KEY,
  slots int NOT NULL DEFAULT 0 CHECK (slots >= 0),
  paused boolean NOT NULL DEFAULT false,
  retired boolean NOT NULL DEFAULT false,
  clock double precision NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE TABLE flow (
  account_id uuid NOT NULL REFERENCES account,
  pool text NOT NULL REFERENCES pool,
  tag double precision NOT NULL DEFAULT 0,
  turn double precision NOT NULL DEFAULT 0,
  turns double precision[] NOT NULL DEFAULT '{0,0,0}',
  active int NOT NULL DEFAULT 0 CHECK (active >= 0),
  parked int NOT NULL DEFAULT 0 CHECK (parked >= 0),
  PRIMARY KEY (account_id, pool)
) WITH (fillfactor = 50);
CREATE INDEX flow_parked ON flow (account_id) WHERE parked > 0;

CREATE TABLE job (
  id uuid PRIMARY KEY,
  account_id uuid NOT NULL REFERENCES account,
  task text NOT NULL,
  state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
  effective_input jsonb NOT NULL,
  input_adjustments jsonb NOT NULL,
  warnings jsonb NOT NULL,
  billing jsonb NOT NULL,
  amount bigint NOT NULL CHECK (amount > 0),
  pools text[] NOT NULL CHECK (cardinality(pools) >= 1),
  segment smallint NOT NULL DEFAULT 0,
  checkpoint jsonb,
  session_id bigint REFERENCES session,
  fence int NOT NULL DEFAULT 0,
  starts smallint NOT NULL DEFAULT 0,
  attempts smallint NOT NULL DEFAULT 0,
  sequence int NOT NULL DEFAULT 1,
  progress real NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
  stage text,
  request_id text NOT NULL,
  balance_after bigint NOT NULL,
  start_by timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  started_at timestamptz,
  finished_at timestamptz,
  cancel_requested_at timestamptz,
  stopped_at_step int,
  gpu_released_at timestamptz,
  engine text,
  weights_digest text,
  stand_in boolean,
  outputs jsonb NOT NULL DEFAULT '[]',
  outputs_deleted_at timestamptz,
  upstream jsonb,
  failure jsonb,
  CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
  CHECK ((state = 'failed') = (failure IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX job_by_account ON job (account_id, id DESC);
CREATE INDEX job_by_session ON job (session_id) WHERE state = 'running';
CREATE INDEX job_unstarted ON job (start_by) WHERE state = 'queued' AND started_at IS NULL;

-- Narrow, and apart from job's jsonb, so that a claim reads few pages however many jobs wait.
CREATE TABLE queue (
  job_id uuid PRIMARY KEY REFERENCES job,
  account_id uuid NOT NULL,
  pool text NOT NULL REFERENCES pool,
  state text NOT NULL CHECK (state IN ('parked', 'ready', 'leased')),
  begun boolean NOT NULL DEFAULT false,
  class smallint NOT NULL CHECK (class BETWEEN 1 AND 3),
  turn double precision NOT NULL,
  tag double precision,
  cost double precision NOT NULL CHECK (cost > 0 AND cost < 'Infinity'),
  CHECK ((state = 'parked') = (tag IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX queue_ready ON queue (pool, begun DESC, tag, job_id) WHERE state = 'ready';
CREATE INDEX queue_leased ON queue (pool) WHERE state = 'leased';
CREATE INDEX queue_parked ON queue (account_id, pool, turn, job_id) WHERE state = 'parked';
CREATE INDEX queue_own_ready ON queue (account_id, pool, turn) WHERE state = 'ready' AND NOT begun;

CREATE TABLE attempt (
  job_id uuid NOT NULL REFERENCES job,
  fence int NOT NULL,
  session_id bigint NOT NULL REFERENCES session,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  outcome text,
  replica text,
  PRIMARY KEY (job_id, fence),
  CHECK ((ended_at IS NULL) = (outcome IS NULL))
);

CREATE TABLE stage (
  job_id uuid NOT NULL,
  fence int NOT NULL,
  name text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  gpu_seconds double precision NOT NULL DEFAULT 0 CHECK (gpu_seconds >= 0),
  PRIMARY KEY (job_id, fence, name),
  FOREIGN KEY (job_id, fence) REFERENCES attempt
);

CREATE TABLE event (
  job_id uuid NOT NULL REFERENCES job,
  seq int NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  type text NOT NULL CHECK (type IN ('state', 'stage', 'progress', 'cancel_requested')),
  data jsonb NOT NULL,
  PRIMARY KEY (job_id, seq)
);
