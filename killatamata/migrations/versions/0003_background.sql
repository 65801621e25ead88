-- What the background process keeps: which task of procrastinate carries a delivery, and the last result of each check.

ALTER TABLE delivery ADD carrier bigint;
CREATE INDEX delivery_due ON delivery (next_attempt_at) WHERE state = 'pending' AND relayed_at IS NOT NULL;
CREATE INDEX delivery_ended ON delivery (ended_at) WHERE ended_at IS NOT NULL;

CREATE INDEX movement_by_age ON movement USING brin (created_at);

-- `touched`: wallets that moved lately; `all`: every wallet; `holds`: holds that are open. `wrong` are the accounts at fault.
CREATE TABLE ledger_check (
  scope text PRIMARY KEY CHECK (scope IN ('touched', 'all', 'holds')),
  at timestamptz NOT NULL,
  checked bigint NOT NULL CHECK (checked >= 0),
  wrong uuid[] NOT NULL
);
