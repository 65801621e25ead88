-- The queue. Between accounts: start-time fair queueing per (account, pool); a job's tag is its account's virtual start
-- time, the pool's clock is the newest tag claimed (Goyal, Vin and Cheng, "Start-time fair queueing", 1996). Inside an
-- account: turns, by class, weighted 8:4:1 (interactive, standard, batch). Only an account's first jobs in a pool, as
-- many as its concurrency, are tagged `ready`; the others are `parked` and follow one by one. Whatever becomes ready has a
-- tag at or above the clock as it was then, which is what a claim's floor relies on. A job that an operator holds back is
-- `quarantined` and counts as neither (see operator.sql).
--
-- Lock order, everywhere: session, pool, queue, job, flow (several by account and pool), hold, wallet. Whoever holds a flow
-- takes rows of the queue only with SKIP LOCKED. A transaction ends one job; or several of which it has locked first the rows
-- of the queue, then all flows and then the wallets of their accounts, each in the order of its keys (settle_all).

-- A job of that turn has just got the last of its account's tags in this pool: when others that wait come later in turn, give
-- the tags to the waiting jobs in the order of their turns.
CREATE OR REPLACE FUNCTION flow_reorder(p_account uuid, p_pool text, p_turn double precision) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM queue WHERE account_id = p_account AND pool = p_pool AND state = 'ready' AND NOT begun
      AND turn > p_turn) THEN
    RETURN;
  END IF;
  WITH waiting AS (
    SELECT job_id, turn, tag FROM queue
      WHERE account_id = p_account AND pool = p_pool AND state = 'ready' AND NOT begun FOR UPDATE SKIP LOCKED
  ), turns AS (
    SELECT job_id, tag AS old_tag, row_number() OVER (ORDER BY turn, job_id) AS place FROM waiting
  ), tags AS (
    SELECT tag, row_number() OVER (ORDER BY tag) AS place FROM waiting
  )
  UPDATE queue SET tag = tags.tag FROM turns JOIN tags USING (place)
    WHERE queue.job_id = turns.job_id AND turns.old_tag <> tags.tag;
END $$;

-- Put a new job into its first pool. Errors: KT503 the fleet lacks one of the pools (DETAIL: all of them), KT429 the account's
-- queue is full (DETAIL: its limit), KT430 its submits are paused (DETAIL: seconds).
CREATE OR REPLACE FUNCTION flow_join(p_job uuid, p_account uuid, p_pools text[], p_class smallint, p_cost double precision)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_pool text := p_pools[1];
  v_known record;
  v_flow flow;
  v_turn double precision;
  v_last double precision;
BEGIN
  SELECT pool.clock, account.concurrency, account.queue_limit, account.paused_until INTO v_known
    FROM pool, account WHERE pool.name = v_pool AND NOT pool.retired AND account.id = p_account;
  IF NOT FOUND OR cardinality(p_pools) > 1 AND EXISTS (
      SELECT FROM unnest(p_pools) AS needed WHERE NOT EXISTS (SELECT FROM pool WHERE name = needed AND NOT retired)) THEN
    RAISE 'no such pool' USING ERRCODE = 'KT503', DETAIL = array_to_string(p_pools, ', ');
  END IF;
  IF v_known.paused_until > clock_timestamp() THEN
    RAISE 'submits are paused' USING ERRCODE = 'KT430',
      DETAIL = ceil(extract(epoch FROM v_known.paused_until - clock_timestamp()));
  END IF;
  SELECT * INTO v_flow FROM flow WHERE account_id = p_account AND pool = v_pool FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO flow (account_id, pool) VALUES (p_account, v_pool) ON CONFLICT DO NOTHING;
    SELECT * INTO v_flow FROM flow WHERE account_id = p_account AND pool = v_pool FOR UPDATE;
  END IF;
  IF (SELECT sum(active + parked) FROM flow WHERE account_id = p_account) >= v_known.queue_limit THEN
    RAISE 'queue full' USING ERRCODE = 'KT429', DETAIL = v_known.queue_limit;
  END IF;
  v_last := greatest(v_flow.turns[1] - 0.125, v_flow.turns[2] - 0.25, v_flow.turns[3] - 1);
  v_turn := greatest(v_flow.turn, v_flow.turns[p_class]);
  v_flow.turns[p_class] := v_turn + CASE p_class WHEN 1 THEN 0.125 WHEN 2 THEN 0.25 ELSE 1 END;
  IF v_flow.active < v_known.concurrency THEN
    v_flow.tag := greatest(v_flow.tag, v_known.clock);
    INSERT INTO queue (job_id, account_id, pool, state, class, turn, tag, cost)
      VALUES (p_job, p_account, v_pool, 'ready', p_class, v_turn, v_flow.tag, p_cost);
    UPDATE flow SET tag = v_flow.tag + p_cost, turns = v_flow.turns, active = active + 1
      WHERE account_id = p_account AND pool = v_pool;
    IF v_turn < v_last THEN
      PERFORM flow_reorder(p_account, v_pool, v_turn);
    END IF;
  ELSE
    INSERT INTO queue (job_id, account_id, pool, state, class, turn, cost)
      VALUES (p_job, p_account, v_pool, 'parked', p_class, v_turn, p_cost);
    UPDATE flow SET turns = v_flow.turns, parked = parked + 1 WHERE account_id = p_account AND pool = v_pool;
  END IF;
END $$;

-- Let parked jobs follow until the account's concurrency is reached; the caller holds the flow's row. Returns how many did.
CREATE OR REPLACE FUNCTION flow_promote(p_account uuid, p_pool text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  v_flow flow;
  v_next queue;
  v_clock double precision;
  v_concurrency int;
  v_count int := 0;
BEGIN
  SELECT * INTO v_flow FROM flow WHERE account_id = p_account AND pool = p_pool;
  SELECT concurrency INTO v_concurrency FROM account WHERE id = p_account;
  SELECT clock INTO v_clock FROM pool WHERE name = p_pool;
  WHILE v_flow.active < v_concurrency AND v_flow.parked > 0 LOOP
    SELECT * INTO v_next FROM queue WHERE account_id = p_account AND pool = p_pool AND state = 'parked'
      ORDER BY turn, job_id LIMIT 1 FOR UPDATE SKIP LOCKED;
    EXIT WHEN NOT FOUND;
    v_flow.tag := greatest(v_flow.tag, v_clock);
    UPDATE queue SET state = 'ready', tag = v_flow.tag WHERE job_id = v_next.job_id;
    UPDATE flow SET tag = v_flow.tag + v_next.cost, active = active + 1, parked = parked - 1
      WHERE account_id = p_account AND pool = p_pool RETURNING * INTO v_flow;
    PERFORM flow_reorder(p_account, p_pool, v_next.turn);
    v_count := v_count + 1;
  END LOOP;
  RETURN v_count;
END $$;

-- A job's row left a pool: count it out and let parked jobs follow. The account's turns go on with what was served; a job
-- that leaves unserved gives its share back.
CREATE OR REPLACE FUNCTION flow_left(p_gone queue) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_parked int;
BEGIN
  UPDATE flow SET
      active = active - (p_gone.state IN ('ready', 'leased'))::int,
      parked = parked - (p_gone.state = 'parked')::int,
      turn = CASE WHEN p_gone.state = 'leased' THEN greatest(turn, p_gone.turn) ELSE turn END,
      tag = CASE WHEN p_gone.state = 'ready' AND NOT p_gone.begun THEN greatest(tag - p_gone.cost, 0) ELSE tag END
    WHERE account_id = p_gone.account_id AND pool = p_gone.pool RETURNING parked INTO v_parked;
  IF v_parked > 0 THEN
    PERFORM flow_promote(p_gone.account_id, p_gone.pool);
  END IF;
END $$;

-- A job ended: take its row out.
CREATE OR REPLACE FUNCTION flow_leave(p_job uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_gone queue;
BEGIN
  DELETE FROM queue WHERE job_id = p_job RETURNING * INTO v_gone;
  IF v_gone.state = 'quarantined' THEN
    DELETE FROM quarantine WHERE job_id = p_job;
  ELSIF FOUND THEN
    PERFORM flow_left(v_gone);
  END IF;
END $$;

-- A leased job goes on in another pool, before everything there that has not begun. Its row is moved, never made anew: who
-- waits for the row's lock must find it afterwards.
CREATE OR REPLACE FUNCTION flow_move(p_job uuid, p_pool text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_old queue;
  v_turn double precision;
BEGIN
  SELECT * INTO STRICT v_old FROM queue WHERE job_id = p_job;
  INSERT INTO flow (account_id, pool) VALUES (v_old.account_id, p_pool) ON CONFLICT DO NOTHING;
  PERFORM FROM flow WHERE account_id = v_old.account_id AND pool IN (v_old.pool, p_pool) ORDER BY pool FOR UPDATE;
  UPDATE flow SET active = active + 1 WHERE account_id = v_old.account_id AND pool = p_pool RETURNING turn INTO v_turn;
  UPDATE queue SET pool = p_pool, state = 'ready', begun = true, turn = v_turn, tag = clock
    FROM pool WHERE job_id = p_job AND pool.name = p_pool;
  PERFORM flow_left(v_old);
END $$;

-- Promote what a leave passed over because its row was locked, and what a raised concurrency lets through. Returns how many.
CREATE OR REPLACE FUNCTION flow_catch_up() RETURNS bigint LANGUAGE sql AS $$
  WITH behind AS MATERIALIZED (
    SELECT flow.account_id, flow.pool FROM flow JOIN account ON account.id = flow.account_id
      WHERE flow.parked > 0 AND flow.active < account.concurrency FOR UPDATE OF flow SKIP LOCKED
  )
  SELECT coalesce(sum(flow_promote(account_id, pool)), 0) FROM behind
$$;

-- Set a pool's floor to its first ready job, or to the clock as the sweep before saw it: whatever becomes ready later comes
-- above that. Who read the clock before that sweep and commits only now stays below until the next one lowers the floor.
CREATE OR REPLACE FUNCTION queue_floor(p_pool text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_begun double precision;
  v_fresh double precision;
BEGIN
  SELECT tag INTO v_begun FROM queue WHERE pool = p_pool AND state = 'ready' AND begun ORDER BY tag, job_id LIMIT 1;
  SELECT tag INTO v_fresh FROM queue WHERE pool = p_pool AND state = 'ready' AND NOT begun ORDER BY tag, job_id LIMIT 1;
  UPDATE pool SET floor = least(mark, v_begun, v_fresh), mark = clock
    WHERE name = p_pool AND (floor, mark) IS DISTINCT FROM (least(mark, v_begun, v_fresh), clock);
END $$;
