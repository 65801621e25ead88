-- What an operator does by hand to a job or a pool. Each call is one transaction with its row in `audit`. Errors: KT450 no such
-- job, KT451 the job has ended (DETAIL: its state), KT452 it is not in quarantine, KT453 it is already, KT454 no such pool
-- (DETAIL: those there are).

CREATE OR REPLACE TRIGGER audit_immutable BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION ledger_immutable();
CREATE OR REPLACE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION ledger_immutable();

-- How a job stands, for the audit.
CREATE OR REPLACE FUNCTION job_standing(p_job uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT jsonb_strip_nulls(jsonb_build_object('state', job.state, 'queue', queue.state, 'pool', queue.pool, 'fence', job.fence,
      'attempts', job.attempts, 'starts', job.starts, 'hold', hold.state, 'quarantine', quarantine.reason))
    FROM job LEFT JOIN queue ON queue.job_id = job.id LEFT JOIN hold ON hold.id = job.id
      LEFT JOIN quarantine ON quarantine.job_id = job.id
    WHERE job.id = p_job
$$;

-- The job's row, locked after the queue's.
CREATE OR REPLACE FUNCTION job_taken(p_job uuid, p_ended boolean DEFAULT false) RETURNS job LANGUAGE plpgsql AS $$
DECLARE
  v_job job;
BEGIN
  PERFORM FROM queue WHERE job_id = p_job FOR UPDATE;
  SELECT * INTO v_job FROM job WHERE id = p_job FOR UPDATE;
  IF NOT FOUND THEN
    RAISE 'no such job' USING ERRCODE = 'KT450';
  END IF;
  IF v_job.finished_at IS NOT NULL AND NOT p_ended THEN
    RAISE 'the job has ended' USING ERRCODE = 'KT451', DETAIL = v_job.state;
  END IF;
  RETURN v_job;
END $$;

CREATE OR REPLACE FUNCTION job_audit(p_job uuid, p_actor text, p_action text, p_reason text, p_before jsonb)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_after jsonb := job_standing(p_job);
BEGIN
  INSERT INTO audit (actor, action, target, reason, before, after)
    VALUES (p_actor, 'job.' || p_action, p_job::text, p_reason, p_before, v_after);
  RETURN v_after;
END $$;

-- Take a running job's lease away, under a new fence; neither an attempt nor a start counts. Its worker is told to stop.
CREATE OR REPLACE FUNCTION lease_revoke(p_job uuid, p_fence int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE job SET forgiven = forgiven + 1 WHERE id = p_job;
  PERFORM hand_back(p_job, p_fence, 'handed_back', false);
  PERFORM pg_notify('job_stop', p_job::text);
END $$;

-- Put a job that is held back in line again, where it stood, or first of what has not begun when its turn is over.
CREATE OR REPLACE FUNCTION quarantine_leave(p_job uuid) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_held queue;
BEGIN
  SELECT * INTO v_held FROM queue WHERE job_id = p_job AND state = 'quarantined';
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  DELETE FROM quarantine WHERE job_id = p_job;
  IF v_held.tag IS NULL THEN
    UPDATE flow SET parked = parked + 1 WHERE account_id = v_held.account_id AND pool = v_held.pool;
    UPDATE queue SET state = 'parked' WHERE job_id = p_job;
    PERFORM flow_promote(v_held.account_id, v_held.pool);
  ELSE
    UPDATE flow SET active = active + 1, tag = CASE WHEN v_held.begun THEN tag ELSE tag + v_held.cost END
      WHERE account_id = v_held.account_id AND pool = v_held.pool;
    UPDATE queue SET state = 'ready', tag = greatest(tag, clock) FROM pool WHERE job_id = p_job AND pool.name = queue.pool;
  END IF;
  RETURN true;
END $$;

-- Back in line with fresh attempts: a running job loses its lease, one in quarantine is released, one in line keeps its place.
-- Where the caller has asked for a cancel, the job ends cancelled. Returns how it stands.
CREATE OR REPLACE FUNCTION job_requeue(p_job uuid, p_actor text, p_reason text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_job job := job_taken(p_job);
  v_before jsonb := job_standing(p_job);
BEGIN
  UPDATE job SET attempts = 0, forgiven = starts - (session_id IS NOT NULL)::int WHERE id = p_job;
  IF v_job.session_id IS NOT NULL THEN
    PERFORM lease_revoke(p_job, v_job.fence);
  ELSE
    PERFORM quarantine_leave(p_job);
  END IF;
  RETURN job_audit(p_job, p_actor, 'requeue', p_reason, v_before);
END $$;

-- Hold a job back: it is not claimed, its hold stays, its caller sees it wait and may cancel it, and its deadlines go on. A
-- running one loses its lease first. It gives its place among its account's jobs up meanwhile. Returns how it stands.
CREATE OR REPLACE FUNCTION job_quarantine(p_job uuid, p_actor text, p_reason text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_job job := job_taken(p_job);
  v_before jsonb := job_standing(p_job);
  v_waiting queue;
BEGIN
  IF v_before ->> 'queue' = 'quarantined' THEN
    RAISE 'the job is in quarantine already' USING ERRCODE = 'KT453';
  END IF;
  IF v_job.session_id IS NOT NULL THEN
    PERFORM lease_revoke(p_job, v_job.fence);
  END IF;
  SELECT * INTO v_waiting FROM queue WHERE job_id = p_job;
  IF FOUND THEN
    INSERT INTO quarantine (job_id, actor, reason) VALUES (p_job, p_actor, coalesce(p_reason, 'no reason was given'));
    UPDATE queue SET state = 'quarantined' WHERE job_id = p_job;
    PERFORM flow_left(v_waiting);
  END IF;
  RETURN job_audit(p_job, p_actor, 'quarantine', p_reason, v_before);
END $$;

-- Let a job go from quarantine: an unfinished one goes on, one that had used up its attempts stays ended and is only no longer
-- listed. Returns how it stands.
CREATE OR REPLACE FUNCTION job_release(p_job uuid, p_actor text, p_reason text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_job job := job_taken(p_job, true);
  v_before jsonb := job_standing(p_job);
BEGIN
  IF v_job.finished_at IS NULL THEN
    IF NOT quarantine_leave(p_job) THEN
      RAISE 'the job is not in quarantine' USING ERRCODE = 'KT452';
    END IF;
  ELSE
    DELETE FROM quarantine WHERE job_id = p_job;
    IF NOT FOUND THEN
      RAISE 'the job has ended' USING ERRCODE = 'KT451', DETAIL = v_job.state;
    END IF;
  END IF;
  RETURN job_audit(p_job, p_actor, 'release', p_reason, v_before);
END $$;

CREATE OR REPLACE FUNCTION pool_standing(p_pool text) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object('paused', paused, 'drainBy', drain_by, 'slots', slots,
      'leased', (SELECT count(*) FROM queue WHERE queue.pool = pool.name AND queue.state = 'leased'))
    FROM pool WHERE name = p_pool
$$;

-- `pause`: nothing more is claimed, what runs goes on. `drain`: besides, what still runs after `p_grace` is handed back (see
-- drain_due). `resume`: neither. Returns how the pool stands.
CREATE OR REPLACE FUNCTION pool_command(p_pool text, p_action text, p_grace interval, p_actor text, p_reason text)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_before jsonb;
BEGIN
  PERFORM FROM pool WHERE name = p_pool FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RAISE 'no such pool' USING ERRCODE = 'KT454', DETAIL = coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM pool), '');
  END IF;
  v_before := pool_standing(p_pool);
  UPDATE pool SET paused = p_action <> 'resume', drain_by = CASE p_action WHEN 'drain' THEN clock_timestamp() + p_grace END
    WHERE name = p_pool;
  INSERT INTO audit (actor, action, target, reason, before, after)
    VALUES (p_actor, 'pool.' || p_action, p_pool, p_reason, v_before, pool_standing(p_pool));
  RETURN pool_standing(p_pool);
END $$;

-- Hand back one job of a pool whose drain is over, uncounted; NULL when there is none. One job per call, as for every sweep that
-- may end jobs.
CREATE OR REPLACE FUNCTION drain_due() RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  v_late record;
  v_job job;
  v_before jsonb;
BEGIN
  SELECT queue.job_id, pool.name INTO v_late FROM pool JOIN queue ON queue.pool = pool.name AND queue.state = 'leased'
    WHERE pool.drain_by < statement_timestamp() LIMIT 1 FOR UPDATE OF queue SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  v_job := job_taken(v_late.job_id);
  v_before := job_standing(v_late.job_id);
  PERFORM lease_revoke(v_late.job_id, v_job.fence);
  PERFORM job_audit(v_late.job_id, 'drain of ' || v_late.name, 'hand_back', NULL, v_before);
  RETURN v_late.job_id;
END $$;
