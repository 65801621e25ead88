-- Jobs: deadlines, webhooks, lists, and what sweeps look for.

ALTER TABLE account ADD paused_until timestamptz;

ALTER TABLE job
  DROP balance_after,
  ADD cancel_by timestamptz,
  ADD webhook_url text,
  ADD running_cancel_at timestamptz,
  ADD strays boolean NOT NULL DEFAULT false;
CREATE INDEX job_by_state ON job (account_id, state, id DESC);
CREATE INDEX job_cancel_due ON job (cancel_by)
  WHERE cancel_by IS NOT NULL AND finished_at IS NULL AND cancel_requested_at IS NULL;
CREATE INDEX job_running_cancel ON job (account_id, running_cancel_at) WHERE running_cancel_at IS NOT NULL;
CREATE INDEX job_kept ON job (finished_at) WHERE outputs <> '[]'::jsonb AND outputs_deleted_at IS NULL;
CREATE INDEX job_strays ON job (finished_at) WHERE strays;

ALTER TABLE event DROP CONSTRAINT event_type_check;
ALTER TABLE event ADD CHECK (type IN ('state', 'stage', 'progress', 'preview', 'cancel_requested'));

CREATE INDEX idempotency_by_age ON idempotency USING brin (created_at);

DROP FUNCTION IF EXISTS submit;
DROP FUNCTION IF EXISTS cancel;
DROP FUNCTION IF EXISTS idempotency_begin;
DROP FUNCTION IF EXISTS job_end;
DROP FUNCTION IF EXISTS hand_back;

-- Media that callers sent: inline ones by content (stored under in/<sha256>), uploads by id.

CREATE TABLE input (
  sha256 bytea PRIMARY KEY CHECK (length(sha256) = 32),
  kept_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX input_by_age ON input (kept_at);

CREATE TABLE job_input (
  job_id uuid NOT NULL REFERENCES job,
  sha256 bytea NOT NULL REFERENCES input,
  PRIMARY KEY (job_id, sha256)
);
CREATE INDEX job_input_by_input ON job_input (sha256);

CREATE TABLE upload (
  id uuid PRIMARY KEY,
  account_id uuid NOT NULL REFERENCES account,
  key text NOT NULL UNIQUE,
  mime_type text NOT NULL,
  bytes bigint NOT NULL CHECK (bytes > 0),
  sha256 bytea CHECK (length(sha256) = 32),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL
);
CREATE INDEX upload_by_expiry ON upload (expires_at);

-- Webhooks: which generation of an account's secret is in force, and every notice with its tries.

CREATE TABLE webhook_secret (
  account_id uuid PRIMARY KEY REFERENCES account,
  generation int NOT NULL DEFAULT 1 CHECK (generation >= 1),
  rotated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE delivery (
  id uuid PRIMARY KEY,
  job_id uuid NOT NULL REFERENCES job,
  account_id uuid NOT NULL REFERENCES account,
  type text NOT NULL,
  url text NOT NULL,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  relayed_at timestamptz,
  next_attempt_at timestamptz,
  ended_at timestamptz,
  CHECK ((state = 'pending') = (ended_at IS NULL))
);
CREATE INDEX delivery_by_job ON delivery (job_id);
CREATE INDEX delivery_outbox ON delivery (created_at) WHERE relayed_at IS NULL;

CREATE TABLE delivery_attempt (
  delivery_id uuid NOT NULL REFERENCES delivery,
  number smallint NOT NULL CHECK (number >= 1),
  started_at timestamptz NOT NULL,
  seconds real NOT NULL CHECK (seconds >= 0),
  status smallint,
  error text,
  PRIMARY KEY (delivery_id, number),
  CHECK ((status IS NULL) <> (error IS NULL))
);

-- How long jobs took: the newest samples of each shape of each task, in seconds.

CREATE TABLE run_time (
  task text NOT NULL,
  shape text NOT NULL,
  samples real[] NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (task, shape)
) WITH (fillfactor = 50);

-- Money: every movement of an account carries a hash over itself and the one before (see billing/sql/ledger.sql).

ALTER TABLE wallet ADD chain bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (length(chain) = 32);
ALTER TABLE movement ADD hash bytea CHECK (length(hash) = 32);
DROP TRIGGER IF EXISTS movement_immutable ON movement;
DO $$
DECLARE
  v_movement record;
  v_chain bytea;
BEGIN
  FOR v_movement IN
    SELECT movement.*, (SELECT string_agg(book || ':' || amount || ':' || coalesce(balance_after::text, ''), ';' ORDER BY seq)
                        FROM entry WHERE movement_id = movement.id) AS lines
      FROM movement WHERE account_id IS NOT NULL ORDER BY id
  LOOP
    UPDATE wallet SET chain = sha256(chain || convert_to(format('%s|%s|%s|%s', v_movement.kind,
        (extract(epoch FROM v_movement.created_at) * 1000000)::bigint, v_movement.lines, v_movement.business_id), 'UTF8'))
      WHERE account_id = v_movement.account_id RETURNING chain INTO v_chain;
    UPDATE movement SET hash = v_chain WHERE id = v_movement.id;
  END LOOP;
END $$;
ALTER TABLE movement ADD CHECK ((account_id IS NULL) = (hash IS NULL));
