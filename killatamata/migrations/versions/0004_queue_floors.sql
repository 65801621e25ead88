-- Where a pool's line begins and its leases begin, so that a claim passes over what an old snapshot keeps of earlier ones.

ALTER TABLE pool
  ADD floor double precision NOT NULL DEFAULT 0,
  ADD mark double precision NOT NULL DEFAULT 0,
  ADD leased_floor double precision NOT NULL DEFAULT 0;

DROP INDEX queue_leased;
CREATE INDEX queue_leased ON queue (pool, tag) WHERE state = 'leased';

-- A hold, a movement, an entry, a flow and a delivery are written only by functions that hold a row of the same account, or of
-- the pool, in the same transaction; their keys were checked again at every job, sixteen times.
ALTER TABLE hold DROP CONSTRAINT hold_account_id_fkey;
ALTER TABLE movement DROP CONSTRAINT movement_account_id_fkey;
ALTER TABLE entry DROP CONSTRAINT entry_account_id_fkey;
ALTER TABLE flow DROP CONSTRAINT flow_account_id_fkey;
ALTER TABLE delivery DROP CONSTRAINT delivery_account_id_fkey;
ALTER TABLE queue DROP CONSTRAINT queue_pool_fkey;

DROP FUNCTION IF EXISTS idempotency_begin;
DROP FUNCTION IF EXISTS flow_join;
DROP FUNCTION IF EXISTS flow_reorder;
DROP FUNCTION IF EXISTS job_owned;
