-- What operators do by hand, and what keeps a pool's line from growing without end.

-- Starts that an operator took away or forgave: they do not count towards the twenty a job has (see hand_back).
ALTER TABLE job ADD forgiven smallint NOT NULL DEFAULT 0;

-- `quarantined`: held back by an operator, without a place in line; its tag is kept for the release.
ALTER TABLE queue
  DROP CONSTRAINT queue_state_check,
  DROP CONSTRAINT queue_check,
  ADD CHECK (state IN ('parked', 'ready', 'leased', 'quarantined')),
  ADD CHECK (CASE state WHEN 'parked' THEN tag IS NULL WHEN 'quarantined' THEN true ELSE tag IS NOT NULL END);

-- Unfinished jobs that an operator holds back (`actor`), and failed ones that used up their attempts (no `actor`), until an
-- operator lets them go.
CREATE TABLE quarantine (
  job_id uuid PRIMARY KEY REFERENCES job,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text,
  reason text NOT NULL
);

-- `max_queue_seconds`: submits are refused while more work than this waits before a new job; NULL: never. `drain_by`: when
-- whatever still runs in this paused pool is handed back; NULL: it may go on.
ALTER TABLE pool
  ADD max_queue_seconds double precision CHECK (max_queue_seconds > 0),
  ADD drain_by timestamptz,
  ADD CHECK (drain_by IS NULL OR paused);

CREATE TABLE audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL CHECK (actor <> ''),
  action text NOT NULL CHECK (action <> ''),
  target text NOT NULL CHECK (target <> ''),
  reason text,
  before jsonb NOT NULL,
  after jsonb NOT NULL
);
CREATE INDEX audit_by_target ON audit (target, id);

-- `jobs`: unfinished jobs without an open hold of their price, or without a place in the queue.
ALTER TABLE ledger_check
  DROP CONSTRAINT ledger_check_scope_check,
  ADD CHECK (scope IN ('touched', 'all', 'holds', 'chains', 'jobs'));
