-- Nobody takes more than a share: of running jobs, of what is stored for nothing, of what tells others of their jobs.

DROP FUNCTION IF EXISTS cancel_due;

-- Bytes of files inside requests that an account had stored anew, by the hour; hours more than a day old go with the next one.
CREATE TABLE inline_bytes (
  account_id uuid NOT NULL REFERENCES account,
  hour timestamptz NOT NULL,
  bytes bigint NOT NULL CHECK (bytes >= 0),
  PRIMARY KEY (account_id, hour)
) WITH (fillfactor = 70);

CREATE INDEX upload_by_account ON upload (account_id, expires_at);
CREATE INDEX delivery_pending ON delivery (created_at) WHERE state = 'pending';

-- `chains`: accounts whose movements do not follow from each other. Where its round is: at this account (NULL: between two
-- rounds), behind this movement of it (0: the account is done).
ALTER TABLE ledger_check
  DROP CONSTRAINT ledger_check_scope_check,
  ADD CHECK (scope IN ('touched', 'all', 'holds', 'chains')),
  ADD account_id uuid,
  ADD movement_id bigint NOT NULL DEFAULT 0;
