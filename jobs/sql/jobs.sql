-- A job's life: submit, claim, hand_back, segment_end, settle, cancel. `job.fence` grows at every claim and every end of a
-- lease, so whatever a late worker still sends carries a fence that no longer fits.

-- How long a dispatcher's session lives without a beat, and how long after PostgreSQL's own start nobody is reclaimed.
CREATE OR REPLACE FUNCTION session_expiry() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '6 s' $$;
CREATE OR REPLACE FUNCTION restart_grace() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '15 s' $$;
CREATE OR REPLACE FUNCTION restarting() RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT pg_postmaster_start_time() > clock_timestamp() - restart_grace()
$$;

-- A UUIDv7 (RFC 9562, section 5.7); PostgreSQL before 18 has none of its own.
CREATE OR REPLACE FUNCTION uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
  SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING
    substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1),
    'hex')::uuid
$$;

-- How long after a submit brought it an input is safe from the sweep, though no job names it.
CREATE OR REPLACE FUNCTION unnamed_input_kept() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '1 h' $$;

-- A drain that nobody took back is over five minutes after it was due: whoever asked for it has died.
CREATE OR REPLACE FUNCTION drain_of(p_drain_by timestamptz) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN p_drain_by > statement_timestamp() - interval '5 min' THEN p_drain_by END
$$;

-- May files that came inside a request be stored for a job of this price? Refuses early what a submit would refuse, which alone
-- decides, and counts the bytes that are not stored yet as the account's, whatever becomes of the request. Errors: those of
-- `flow_join` and `hold_open`, and KT431 too many bytes within a day (DETAIL: those of before, seconds until fewer count).
CREATE OR REPLACE FUNCTION inputs_admit(p_account uuid, p_amount bigint, p_pools text[], p_digests bytea[], p_sizes bigint[],
  p_most bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_known record;
  v_new bigint;
  v_bytes bigint;
  v_oldest timestamptz;
  v_day CONSTANT interval := interval '24 h';
BEGIN
  SELECT wallet.available, wallet.debt, account.paused_until, account.queue_limit INTO STRICT v_known
    FROM account JOIN wallet ON wallet.account_id = account.id WHERE account.id = p_account;
  IF cardinality(p_pools) = 0 OR EXISTS (
      SELECT FROM unnest(p_pools) AS needed WHERE NOT EXISTS (SELECT FROM pool WHERE name = needed AND NOT retired)) THEN
    RAISE 'no such pool' USING ERRCODE = 'KT503', DETAIL = array_to_string(p_pools, ', ');
  END IF;
  IF v_known.available < p_amount OR v_known.debt > 0 THEN
    RAISE 'insufficient balance' USING ERRCODE = 'KT402',
      DETAIL = CASE WHEN v_known.debt > 0 THEN -v_known.debt ELSE v_known.available END;
  END IF;
  IF v_known.paused_until > clock_timestamp() THEN
    RAISE 'submits are paused' USING ERRCODE = 'KT430',
      DETAIL = ceil(extract(epoch FROM v_known.paused_until - clock_timestamp()));
  END IF;
  IF (SELECT sum(active + parked) FROM flow WHERE account_id = p_account) >= v_known.queue_limit THEN
    RAISE 'queue full' USING ERRCODE = 'KT429', DETAIL = v_known.queue_limit;
  END IF;
  SELECT coalesce(sum(size), 0) INTO v_new FROM unnest(p_digests, p_sizes) AS given (digest, size)
    WHERE NOT EXISTS (SELECT FROM input WHERE sha256 = digest);
  IF v_new = 0 THEN
    RETURN;
  END IF;
  -- Written before it is summed: a request at the same time waits here, and then sees these bytes.
  INSERT INTO inline_bytes AS mine (account_id, hour, bytes) VALUES (p_account, date_trunc('hour', clock_timestamp()), v_new)
    ON CONFLICT (account_id, hour) DO UPDATE SET bytes = mine.bytes + excluded.bytes;
  SELECT sum(bytes), min(hour) INTO v_bytes, v_oldest FROM inline_bytes
    WHERE account_id = p_account AND hour > clock_timestamp() - v_day;
  IF v_bytes > p_most THEN
    RAISE 'too many bytes' USING ERRCODE = 'KT431', DETAIL = format('%s %s', v_bytes - v_new,
      ceil(extract(epoch FROM v_oldest + v_day - clock_timestamp())));
  END IF;
  DELETE FROM inline_bytes WHERE account_id = p_account AND hour <= clock_timestamp() - v_day;
END $$;

-- Everything of a submit in one round trip; nothing of it stays when the money does not suffice. A replay gives the first job.
CREATE OR REPLACE FUNCTION submit(
  p_job uuid, p_account uuid, p_task text, p_effective_input jsonb, p_adjustments jsonb, p_warnings jsonb,
  p_billing jsonb, p_amount bigint, p_pools text[], p_cost double precision, p_class smallint, p_request_id text,
  p_route text, p_key text, p_fingerprint bytea, p_start_timeout interval, p_cancel_after interval, p_webhook_url text,
  p_inputs bytea[], p_inputs_kept_at timestamptz DEFAULT NULL
) RETURNS TABLE (job_id uuid, replayed boolean, created_at timestamptz, balance_after bigint) LANGUAGE plpgsql AS $$
DECLARE
  v_replay idempotency;
  v_now timestamptz := clock_timestamp();
BEGIN
  IF p_key IS NOT NULL THEN
    v_replay := idempotency_begin(p_account, p_route, p_key, p_fingerprint, 202::smallint, p_job);
    IF v_replay.key IS NOT NULL THEN
      RETURN QUERY SELECT v_replay.job_id, true, NULL::timestamptz, NULL::bigint;
      RETURN;
    END IF;
  END IF;
  IF cardinality(p_pools) = 0 THEN
    RAISE 'no pool' USING ERRCODE = 'KT503', DETAIL = '';
  END IF;
  INSERT INTO job (id, account_id, task, effective_input, input_adjustments, warnings, billing, amount, pools, request_id,
      start_by, cancel_by, webhook_url, created_at)
    VALUES (p_job, p_account, p_task, p_effective_input, p_adjustments, p_warnings, p_billing, p_amount, p_pools,
      p_request_id, v_now + p_start_timeout, v_now + p_cancel_after, p_webhook_url, v_now);
  INSERT INTO event (job_id, seq, type, data)
    VALUES (p_job, 1, 'state', jsonb_build_object('status', 'queued', 'requestId', p_request_id));
  IF cardinality(p_inputs) > 0 THEN
    IF p_inputs_kept_at < v_now - unnamed_input_kept() / 2 THEN
      RAISE 'the inputs may have been swept' USING ERRCODE = 'KT504';
    END IF;
    INSERT INTO job_input (job_id, sha256) SELECT DISTINCT p_job, sha256 FROM unnest(p_inputs) AS given (sha256);
  END IF;
  PERFORM flow_join(p_job, p_account, p_pools, p_class, p_cost);
  RETURN QUERY SELECT p_job, false, v_now, hold_open(p_job, p_account, p_amount, p_request_id);
END $$;

-- Final state, hold, queue, attempt, event and webhook, in the caller's transaction; the caller holds the queue's and job's
-- rows. What a cancel gives back is written under the id of the request that asked for the cancel, if a request did. Attempts
-- without a result may have left artifacts: then `strays` has a sweep look for them.
CREATE OR REPLACE FUNCTION job_end(p_job uuid, p_state text, p_outcome text, p_failure jsonb, p_result jsonb DEFAULT '{}')
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_now timestamptz := clock_timestamp();
  v_sequence int;
  v_account uuid;
  v_request_id text;
  v_webhook_url text;
BEGIN
  UPDATE job SET state = p_state, finished_at = v_now, failure = p_failure, session_id = NULL,
      fence = fence + 1, sequence = sequence + 1, stage = NULL,
      progress = CASE WHEN p_state = 'succeeded' THEN 1 ELSE progress END,
      strays = starts > (p_state = 'succeeded')::int,
      engine = p_result ->> 'engine', weights_digest = p_result ->> 'weightsDigest',
      stand_in = (p_result ->> 'standIn')::boolean, stopped_at_step = (p_result ->> 'stoppedAtStep')::int,
      gpu_released_at = coalesce((p_result ->> 'gpuReleasedAt')::timestamptz, gpu_released_at),
      outputs = CASE WHEN p_state = 'succeeded' THEN p_result -> 'outputs' ELSE outputs END,
      upstream = CASE WHEN p_state = 'succeeded' THEN p_result -> 'upstream' END,
      input_adjustments = input_adjustments || coalesce(p_result -> 'adjustments', '[]')
    WHERE id = p_job RETURNING sequence, account_id, request_id, webhook_url
    INTO v_sequence, v_account, v_request_id, v_webhook_url;
  UPDATE attempt SET ended_at = v_now, outcome = p_outcome, replica = p_result ->> 'replica'
    WHERE job_id = p_job AND ended_at IS NULL;
  UPDATE stage SET ended_at = v_now WHERE job_id = p_job AND ended_at IS NULL;
  INSERT INTO event (job_id, seq, type, data) VALUES (p_job, v_sequence, 'state',
    jsonb_strip_nulls(jsonb_build_object('status', p_state, 'failure', p_failure)));
  IF v_webhook_url IS NOT NULL THEN
    INSERT INTO delivery (id, job_id, account_id, type, url)
      VALUES (uuid_v7(), p_job, v_account, 'job.' || p_state, v_webhook_url);
  END IF;
  IF p_state = 'cancelled' THEN
    v_request_id := coalesce((SELECT data ->> 'requestId' FROM event WHERE job_id = p_job AND type = 'cancel_requested'
      ORDER BY seq DESC LIMIT 1), v_request_id);
  END IF;
  PERFORM flow_leave(p_job);
  PERFORM hold_settle(p_job, p_state = 'succeeded', v_request_id);
END $$;

-- The row of a job that this fence still owns, locked after the queue's row; NULL when the fence is late. Stages, progress and
-- previews lock the job's row alone, so that the queue's would not be enough.
CREATE OR REPLACE FUNCTION job_owned(p_job uuid, p_fence int) RETURNS job LANGUAGE plpgsql AS $$
DECLARE
  v_job job;
BEGIN
  PERFORM FROM queue WHERE queue.job_id = p_job FOR UPDATE;
  SELECT * INTO v_job FROM job WHERE id = p_job AND fence = p_fence AND state = 'running' AND session_id IS NOT NULL
    FOR NO KEY UPDATE;
  RETURN v_job;
END $$;

-- End a lease without a result. `p_counts`: the attempt is one of the three a job has (a replica died under it, the engine
-- failed); hand-back, a dead dispatcher, drain and a database restart do not count, but nothing starts more than 20 times,
-- what an operator took away or forgave aside. A job at its end here is poison: it fails, uncharged, and is kept in quarantine.
-- Not `p_begun`: no engine ever took it, so that it was no start at all (and a job that never began still times out).
-- `p_last`: whatever the counts say, another attempt would end as this one did.
DROP FUNCTION IF EXISTS hand_back(uuid, int, text, boolean, jsonb, boolean);
CREATE OR REPLACE FUNCTION hand_back(p_job uuid, p_fence int, p_reason text, p_counts boolean, p_failure jsonb DEFAULT NULL,
  p_begun boolean DEFAULT true, p_last boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_job job;
  v_starts int;
  v_sequence int;
BEGIN
  v_job := job_owned(p_job, p_fence);
  IF v_job.id IS NULL THEN
    RETURN 'stale';
  END IF;
  IF v_job.cancel_requested_at IS NOT NULL THEN
    PERFORM job_end(p_job, 'cancelled', p_reason, NULL);
    RETURN 'cancelled';
  END IF;
  v_starts := v_job.starts - (NOT p_begun)::int;
  IF p_last OR v_job.attempts + p_counts::int >= 3 OR v_starts - v_job.forgiven >= 20 THEN
    UPDATE job SET attempts = attempts + p_counts::int WHERE id = p_job;
    INSERT INTO quarantine (job_id, reason) VALUES (p_job, format('%s attempts and %s starts used up; the last ended with %s',
      v_job.attempts + p_counts::int, v_job.starts, p_reason));
    PERFORM job_end(p_job, 'failed', p_reason, coalesce(p_failure, jsonb_build_object('code', 'attempts_exhausted',
      'message', 'The job was started again and again and never finished; nothing was charged.', 'retryable', true)));
    RETURN 'failed';
  END IF;
  IF p_begun THEN
    UPDATE attempt SET ended_at = clock_timestamp(), outcome = p_reason WHERE job_id = p_job AND ended_at IS NULL;
    UPDATE stage SET ended_at = clock_timestamp() WHERE job_id = p_job AND ended_at IS NULL;
  ELSE
    DELETE FROM stage WHERE job_id = p_job AND fence = p_fence;
    DELETE FROM attempt WHERE job_id = p_job AND fence = p_fence;
  END IF;
  UPDATE queue SET state = 'ready', begun = v_starts > 0, tag = greatest(tag, clock)
    FROM pool WHERE job_id = p_job AND pool.name = queue.pool;
  UPDATE job SET state = 'queued', session_id = NULL, fence = fence + 1, attempts = attempts + p_counts::int,
      starts = v_starts, started_at = CASE WHEN v_starts > 0 THEN started_at END, sequence = sequence + 1, stage = NULL
    WHERE id = p_job RETURNING sequence INTO v_sequence;
  INSERT INTO event (job_id, seq, type, data) VALUES (p_job, v_sequence, 'state',
    jsonb_build_object('status', CASE WHEN v_job.segment > 0 THEN 'running' ELSE 'queued' END, 'reason', p_reason));
  RETURN 'queued';
END $$;

-- End the sessions of dead dispatchers; session_hand_back then gives their jobs back. Returns how many.
CREATE OR REPLACE FUNCTION session_reclaim() RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  v_count int;
BEGIN
  IF restarting() THEN
    RETURN 0;
  END IF;
  WITH dead AS (
    SELECT id FROM session WHERE ended_at IS NULL AND beat_at < clock_timestamp() - session_expiry()
      FOR UPDATE SKIP LOCKED
  )
  UPDATE session SET ended_at = clock_timestamp() FROM dead WHERE session.id = dead.id;
  GET DIAGNOSTICS v_count = ROW_COUNT;
  RETURN v_count;
END $$;

-- Hand back one job of an ended session (of `p_session` only, when given); NULL when none is left. One job per call, because
-- a hand-back may end the job, and two transactions that end several jobs each would wait for each other.
CREATE OR REPLACE FUNCTION session_hand_back(p_reason text, p_session bigint DEFAULT NULL) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  v_job record;
BEGIN
  SELECT job.id, job.fence INTO v_job
    FROM job JOIN session ON session.id = job.session_id JOIN queue ON queue.job_id = job.id
    WHERE job.state = 'running' AND session.ended_at IS NOT NULL AND session.id = coalesce(p_session, session.id)
    LIMIT 1 FOR UPDATE OF queue SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  PERFORM hand_back(v_job.id, v_job.fence, p_reason, false);
  RETURN v_job.id;
END $$;

-- Lease up to `p_n` jobs of a pool (a hundred at most: a limit that the planner knows), first in line first, one more than it
-- has free slots, so that a replica never waits for the next one (and a pool at zero replicas is woken). Both looks begin at their floor, because below it an old snapshot may keep the entries of
-- any number of earlier jobs: `floor` is the sweep's (queue_floor), `leased_floor` is kept here, where every lease is made
-- under the pool's lock, so that none is ever left uncounted. Errors: KT440 the session has ended.
CREATE OR REPLACE FUNCTION claim(p_pool text, p_n int, p_session bigint)
RETURNS TABLE (job_id uuid, fence int, account_id uuid, task text, segment smallint, effective_input jsonb,
               checkpoint jsonb, request_id text) LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
#variable_conflict use_column
DECLARE
  v_drain_by timestamptz;
  v_pool pool;
  v_lowest double precision;
  v_take int;
  v_jobs uuid[];
BEGIN
  SELECT drain_by INTO v_drain_by FROM session WHERE id = p_session AND ended_at IS NULL FOR KEY SHARE;
  IF NOT FOUND THEN
    RAISE 'session % has ended', p_session USING ERRCODE = 'KT440';
  END IF;
  IF drain_of(v_drain_by) IS NOT NULL THEN
    RETURN;
  END IF;
  SELECT * INTO v_pool FROM pool WHERE name = p_pool AND NOT paused FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  SELECT least(p_n, 100, v_pool.slots + 1 - count(*)), min(tag) INTO v_take, v_lowest
    FROM queue WHERE pool = p_pool AND state = 'leased' AND tag >= v_pool.leased_floor;
  IF v_take <= 0 THEN
    RETURN;
  END IF;
  WITH begun AS (
    SELECT job_id FROM queue WHERE pool = p_pool AND state = 'ready' AND begun AND tag >= v_pool.floor
      ORDER BY tag, job_id LIMIT 100 FOR UPDATE SKIP LOCKED
  ), fresh AS (
    SELECT job_id FROM queue WHERE pool = p_pool AND state = 'ready' AND NOT begun AND tag >= v_pool.floor
      ORDER BY tag, job_id LIMIT 100 FOR UPDATE SKIP LOCKED
  ), picked AS MATERIALIZED (
    TABLE begun UNION ALL TABLE fresh LIMIT v_take
  ), leased AS (
    UPDATE queue SET state = 'leased' FROM picked WHERE queue.job_id = picked.job_id RETURNING queue.job_id, queue.tag, queue.begun
  ), taken AS (
    SELECT array_agg(job_id ORDER BY NOT begun, tag, job_id) AS jobs, min(tag) AS lowest, max(tag) AS highest FROM leased
  ), moved AS (
    UPDATE pool SET clock = greatest(clock, highest), leased_floor = least(v_lowest, lowest)
      FROM taken WHERE name = p_pool AND highest IS NOT NULL
  )
  SELECT jobs INTO v_jobs FROM taken;
  IF v_jobs IS NULL THEN
    RETURN;
  END IF;
  RETURN QUERY
  WITH started AS (
    UPDATE job SET state = 'running', session_id = p_session, fence = fence + 1, starts = starts + 1,
        started_at = coalesce(started_at, clock_timestamp()), sequence = sequence + 1,
        progress = CASE WHEN segment = 0 THEN 0 ELSE progress END
      WHERE id = ANY (v_jobs) RETURNING *
  ), begun AS (
    INSERT INTO attempt (job_id, fence, session_id) SELECT id, fence, p_session FROM started
  ), told AS (
    INSERT INTO event (job_id, seq, type, data) SELECT id, sequence, 'state', '{"status": "running"}' FROM started
  )
  SELECT id, fence, account_id, task, segment, effective_input, checkpoint, request_id FROM started
    ORDER BY array_position(v_jobs, id);
END $$;

-- A segment ended and another pool goes on: queued there again, before everything not yet begun (publicly still running).
-- Errors: KT906 the job has no further segment.
CREATE OR REPLACE FUNCTION segment_end(p_job uuid, p_fence int, p_checkpoint jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_job job;
  v_pool text;
BEGIN
  v_job := job_owned(p_job, p_fence);
  IF v_job.id IS NULL THEN
    RETURN 'stale';
  END IF;
  IF v_job.cancel_requested_at IS NOT NULL THEN
    PERFORM job_end(p_job, 'cancelled', 'cancelled', NULL);
    RETURN 'cancelled';
  END IF;
  v_pool := v_job.pools[v_job.segment + 2];
  IF v_pool IS NULL THEN
    RAISE 'job % ends with segment %', p_job, v_job.segment USING ERRCODE = 'KT906';
  END IF;
  PERFORM flow_move(p_job, v_pool);
  UPDATE attempt SET ended_at = clock_timestamp(), outcome = 'segment_ended', replica = p_checkpoint ->> 'replica'
    WHERE job_id = p_job AND ended_at IS NULL;
  UPDATE stage SET ended_at = clock_timestamp() WHERE job_id = p_job AND ended_at IS NULL;
  UPDATE job SET state = 'queued', session_id = NULL, fence = fence + 1, segment = segment + 1, attempts = 0,
      checkpoint = p_checkpoint WHERE id = p_job;
  RETURN 'queued';
END $$;

-- The end of a job that a worker reports; it counts only while its fence does. A success after a cancel request is a cancel;
-- a stop that no caller asked for (the worker lost sight of its permit) only gives the job back.
CREATE OR REPLACE FUNCTION settle(p_job uuid, p_fence int, p_state text, p_result jsonb, p_failure jsonb)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_cancelled boolean;
  v_state text := p_state;
BEGIN
  PERFORM FROM queue WHERE queue.job_id = p_job FOR UPDATE;
  SELECT cancel_requested_at IS NOT NULL INTO v_cancelled FROM job
    WHERE id = p_job AND fence = p_fence AND state = 'running' AND session_id IS NOT NULL;
  IF NOT FOUND THEN
    RETURN 'stale';
  END IF;
  IF v_cancelled THEN
    v_state := 'cancelled';
  ELSIF p_state = 'cancelled' THEN
    RETURN hand_back(p_job, p_fence, 'stopped', false);
  END IF;
  PERFORM job_end(p_job, v_state, v_state, CASE WHEN v_state = 'failed' THEN p_failure END, p_result);
  RETURN v_state;
END $$;

-- Settle several jobs in one transaction; returns what `settle` says of each. The lock order is in queue.sql. When a row is
-- locked for long, or one job cannot be written, nothing is done and the caller settles each job by itself.
CREATE OR REPLACE FUNCTION settle_all(p_jobs uuid[], p_fences int[], p_states text[], p_results jsonb[], p_failures jsonb[])
RETURNS text[] LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
DECLARE
  v_accounts uuid[];
  v_ends text[];
BEGIN
  WITH held AS (
    SELECT account_id FROM queue WHERE job_id = ANY (p_jobs) ORDER BY job_id FOR UPDATE
  )
  SELECT array_agg(DISTINCT account_id) INTO v_accounts FROM held;
  PERFORM FROM flow WHERE account_id = ANY (v_accounts) ORDER BY account_id, pool FOR UPDATE;
  PERFORM FROM wallet WHERE account_id = ANY (v_accounts) ORDER BY account_id FOR UPDATE;
  FOR i IN 1 .. cardinality(p_jobs) LOOP
    v_ends[i] := settle(p_jobs[i], p_fences[i], p_states[i], p_results[i], p_failures[i]);
  END LOOP;
  RETURN v_ends;
END $$;

-- A cancel: a waiting job ends at once, a running one is asked to stop. Returns the job's state, NULL if not there. A caller
-- who cancels more than `p_most` running jobs within a day, deadlines included, may submit nothing for `p_pause`; NULL: no limit.
CREATE OR REPLACE FUNCTION cancel(p_account uuid, p_job uuid, p_request_id text, p_most int, p_pause interval)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_job job;
BEGIN
  PERFORM FROM job WHERE id = p_job AND account_id = p_account;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  PERFORM FROM queue WHERE job_id = p_job FOR UPDATE;
  SELECT * INTO v_job FROM job WHERE id = p_job FOR UPDATE;
  IF NOT FOUND THEN
    -- Its record was removed meanwhile: its time was over.
    RETURN NULL;
  END IF;
  IF v_job.finished_at IS NOT NULL OR v_job.cancel_requested_at IS NOT NULL THEN
    RETURN v_job.state;
  END IF;
  UPDATE job SET cancel_requested_at = clock_timestamp(), sequence = sequence + 1,
      running_cancel_at = CASE WHEN v_job.session_id IS NOT NULL AND p_most IS NOT NULL THEN clock_timestamp() END
    WHERE id = p_job;
  INSERT INTO event (job_id, seq, type, data) VALUES (p_job, v_job.sequence + 1, 'cancel_requested',
    jsonb_strip_nulls(jsonb_build_object('requestId', p_request_id)));
  IF v_job.session_id IS NULL THEN
    PERFORM job_end(p_job, 'cancelled', 'cancelled', NULL);
    RETURN 'cancelled';
  END IF;
  IF (SELECT count(*) FROM job WHERE account_id = p_account
      AND running_cancel_at > statement_timestamp() - interval '1 day') > p_most THEN
    UPDATE account SET paused_until = clock_timestamp() + p_pause WHERE id = p_account;
  END IF;
  PERFORM pg_notify('job_stop', p_job::text);
  RETURN 'running';
END $$;

-- Cancel one job whose `cancel_by` is over, as its caller would; NULL when there is none. One job per call, as for every sweep
-- that ends jobs.
CREATE OR REPLACE FUNCTION cancel_due(p_most int, p_pause interval) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  v_due record;
BEGIN
  SELECT id, account_id INTO v_due FROM job
    WHERE cancel_by < statement_timestamp() AND finished_at IS NULL AND cancel_requested_at IS NULL ORDER BY cancel_by LIMIT 1;
  IF FOUND THEN
    PERFORM cancel(v_due.account_id, v_due.id, NULL, p_most, p_pause);
  END IF;
  RETURN v_due.id;
END $$;

-- A job that nobody started in time fails; one job per call, so that a sweep never holds many wallets.
CREATE OR REPLACE FUNCTION start_timeout() RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  v_late uuid;
  v_job job;
BEGIN
  SELECT queue.job_id INTO v_late FROM queue JOIN job ON job.id = queue.job_id
    WHERE job.state = 'queued' AND job.started_at IS NULL AND job.start_by < statement_timestamp()
      AND queue.state <> 'leased' AND NOT queue.begun
    ORDER BY job.start_by LIMIT 1 FOR UPDATE OF queue SKIP LOCKED;
  IF v_late IS NULL THEN
    RETURN NULL;
  END IF;
  SELECT * INTO v_job FROM job WHERE id = v_late FOR UPDATE;
  PERFORM job_end(v_late, 'failed', 'start_timeout', jsonb_build_object('code', 'start_timeout',
    'message', 'The job was not started in time; nothing was charged. Send it again, with a longer startTimeoutSeconds.',
    'retryable', true));
  RETURN v_late;
END $$;

-- A job that waits in a pool which left the fleet an hour ago fails; one job per call.
CREATE OR REPLACE FUNCTION retired_timeout() RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  v_left uuid;
BEGIN
  SELECT queue.job_id INTO v_left FROM pool JOIN queue ON queue.pool = pool.name
    WHERE pool.retired AND pool.updated_at < statement_timestamp() - interval '1 hour' AND queue.state <> 'leased'
    LIMIT 1 FOR UPDATE OF queue SKIP LOCKED;
  IF v_left IS NULL THEN
    RETURN NULL;
  END IF;
  PERFORM FROM job WHERE id = v_left FOR UPDATE;
  PERFORM job_end(v_left, 'failed', 'task_unavailable', jsonb_build_object('code', 'task_unavailable',
    'message', 'The fleet no longer runs what this job needs; nothing was charged.', 'retryable', false));
  RETURN v_left;
END $$;

-- May this fence go on? Its lease must be live (a fresh PostgreSQL forgives silence) and nobody may have asked it to stop.
CREATE OR REPLACE FUNCTION permitted(p_job uuid, p_fence int) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (
    SELECT FROM job JOIN session ON session.id = job.session_id
    WHERE job.id = p_job AND job.fence = p_fence AND job.state = 'running' AND job.cancel_requested_at IS NULL
      AND session.ended_at IS NULL AND (session.beat_at > clock_timestamp() - session_expiry() OR restarting()))
$$;

-- Progress of a running job, at most two rows a second (the caller's duty). False: the fence is late.
CREATE OR REPLACE FUNCTION job_progress(p_job uuid, p_fence int, p_progress real) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_sequence int;
  v_progress real;
BEGIN
  UPDATE job SET progress = greatest(progress, p_progress), sequence = sequence + 1
    WHERE id = p_job AND fence = p_fence AND state = 'running' RETURNING sequence, progress INTO v_sequence, v_progress;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  INSERT INTO event (job_id, seq, type, data)
    VALUES (p_job, v_sequence, 'progress', jsonb_build_object('progress', v_progress));
  RETURN true;
END $$;

-- A small picture of a running job so far. False: the fence is late.
CREATE OR REPLACE FUNCTION job_preview(p_job uuid, p_fence int, p_preview jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_sequence int;
BEGIN
  UPDATE job SET sequence = sequence + 1
    WHERE id = p_job AND fence = p_fence AND state = 'running' RETURNING sequence INTO v_sequence;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  INSERT INTO event (job_id, seq, type, data) VALUES (p_job, v_sequence, 'preview', jsonb_build_object('preview', p_preview));
  RETURN true;
END $$;

-- A step of the chain begins. False: the fence is late.
CREATE OR REPLACE FUNCTION stage_begin(p_job uuid, p_fence int, p_name text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_sequence int;
BEGIN
  UPDATE job SET stage = p_name, sequence = sequence + 1
    WHERE id = p_job AND fence = p_fence AND state = 'running' RETURNING sequence INTO v_sequence;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  INSERT INTO stage (job_id, fence, name) VALUES (p_job, p_fence, p_name) ON CONFLICT DO NOTHING;
  INSERT INTO event (job_id, seq, type, data)
    VALUES (p_job, v_sequence, 'stage', jsonb_build_object('stage', p_name));
  RETURN true;
END $$;

CREATE OR REPLACE FUNCTION stage_end(p_job uuid, p_fence int, p_name text, p_gpu_seconds double precision)
RETURNS void LANGUAGE sql AS $$
  UPDATE stage SET ended_at = clock_timestamp(), gpu_seconds = p_gpu_seconds
    WHERE job_id = p_job AND fence = p_fence AND name = p_name AND ended_at IS NULL
$$;
