-- How long an answer is kept.
CREATE OR REPLACE FUNCTION idempotency_window() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '24 hours' $$;

-- Claim an idempotency key inside the caller's transaction. A twin in flight holds the row's lock: wait for it at most
-- ten seconds. NULL: the key is ours, and what is already known of the answer stands beside it. Errors: KT409 other body,
-- 55P03 (lock_not_available) the twin is still at work; to catch that here would cost every write a subtransaction.
CREATE OR REPLACE FUNCTION idempotency_begin(p_account uuid, p_route text, p_key text, p_fingerprint bytea,
  p_status smallint DEFAULT NULL, p_job uuid DEFAULT NULL)
RETURNS idempotency LANGUAGE plpgsql SET lock_timeout = '10s' AS $$
DECLARE
  v_found idempotency;
BEGIN
  INSERT INTO idempotency AS mine (account_id, route, key, fingerprint, status, job_id)
    VALUES (p_account, p_route, p_key, p_fingerprint, p_status, p_job)
    ON CONFLICT (account_id, route, key) DO UPDATE
      SET fingerprint = excluded.fingerprint, status = excluded.status, job_id = excluded.job_id, body = NULL,
        created_at = clock_timestamp()
      WHERE mine.created_at < clock_timestamp() - idempotency_window();
  IF FOUND THEN
    RETURN NULL;
  END IF;
  SELECT * INTO STRICT v_found FROM idempotency WHERE account_id = p_account AND route = p_route AND key = p_key;
  IF v_found.fingerprint <> p_fingerprint THEN
    RAISE 'idempotency conflict' USING ERRCODE = 'KT409';
  END IF;
  RETURN v_found;
END $$;
