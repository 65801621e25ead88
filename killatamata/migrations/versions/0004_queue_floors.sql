-- Where a pool's line begins and its leases begin, so that a claim passes over what an old snapshot keeps of earlier ones.

ALTER TABLE pool
  ADD floor double precision NOT NULL DEFAULT 0,
  ADD mark double precision NOT NULL DEFAULT 0,
  ADD leased_floor double precision NOT NULL DEFAULT 0;

DROP INDEX queue_leased;
CREATE INDEX queue_leased ON queue (pool, tag) WHERE state = 'leased';
