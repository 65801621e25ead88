-- What checks, lists and scrapes look for, found without reading whole tables.

CREATE INDEX hold_held ON hold (account_id) INCLUDE (amount) WHERE state = 'held';
CREATE INDEX job_live ON job (account_id, id DESC) WHERE finished_at IS NULL;
CREATE INDEX job_by_task ON job (account_id, task, id DESC);

