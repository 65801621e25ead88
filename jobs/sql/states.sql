-- Written by scripts/state_table.py from jobs/states.py; change it there. A way that is not in it ends its transaction.
-- The triggers' conditions are short, because PostgreSQL parses them in every statement: a long one costs more than a call.

CREATE OR REPLACE FUNCTION transition_refused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE '% has no way from % to %', TG_TABLE_NAME, coalesce(to_jsonb(OLD) ->> TG_ARGV[0], 'nothing'),
    coalesce(to_jsonb(NEW) ->> TG_ARGV[0], 'nothing') USING ERRCODE = 'KT902';
END $$;

CREATE OR REPLACE TRIGGER job_first_state BEFORE INSERT ON job
  FOR EACH ROW WHEN (NOT NEW.state = 'queued') EXECUTE FUNCTION transition_refused('state');

CREATE OR REPLACE FUNCTION job_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.state || ' > ' || NEW.state <> ALL ('{queued > running, queued > failed, queued > cancelled, running > queued, running > succeeded, running > failed, running > cancelled}') THEN
    RAISE 'job has no way from % to %', OLD.state, NEW.state USING ERRCODE = 'KT902';
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER job_transition BEFORE UPDATE OF state ON job
  FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION job_transition();

CREATE OR REPLACE TRIGGER job_last_state BEFORE DELETE ON job
  FOR EACH ROW WHEN (NOT OLD.state = 'cancelled' AND NOT OLD.state = 'failed' AND NOT OLD.state = 'succeeded') EXECUTE FUNCTION transition_refused('state');

CREATE OR REPLACE TRIGGER queue_first_state BEFORE INSERT ON queue
  FOR EACH ROW WHEN (NOT NEW.state = 'parked' AND NOT NEW.state = 'ready') EXECUTE FUNCTION transition_refused('state');

CREATE OR REPLACE FUNCTION queue_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.state || ' > ' || NEW.state <> ALL ('{parked > ready, ready > leased, leased > ready, ready > quarantined, parked > quarantined, quarantined > ready, quarantined > parked}') THEN
    RAISE 'queue has no way from % to %', OLD.state, NEW.state USING ERRCODE = 'KT902';
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER queue_transition BEFORE UPDATE OF state ON queue
  FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION queue_transition();

CREATE OR REPLACE TRIGGER attempt_first_state BEFORE INSERT ON attempt
  FOR EACH ROW WHEN (NOT NEW.ended_at IS NULL) EXECUTE FUNCTION transition_refused('ended_at');

CREATE OR REPLACE TRIGGER attempt_transition BEFORE UPDATE OF ended_at ON attempt
  FOR EACH ROW WHEN (OLD.ended_at IS DISTINCT FROM NEW.ended_at AND NOT (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL)) EXECUTE FUNCTION transition_refused('ended_at');
