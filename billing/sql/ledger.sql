-- The ledger: double entry, append-only. Every function here is one round trip and takes the wallet's row last.
-- Errors: KT402 insufficient balance (DETAIL: available), KT404 no such wallet, KT903 another movement has this business id.

CREATE OR REPLACE FUNCTION ledger_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE '% is append-only', TG_TABLE_NAME USING ERRCODE = 'KT900';
END $$;

CREATE OR REPLACE FUNCTION ledger_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF coalesce((SELECT sum(amount) FROM entry WHERE movement_id = NEW.id), 1) <> 0 THEN
    RAISE 'movement % does not sum to zero', NEW.id USING ERRCODE = 'KT901';
  END IF;
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION ledger_statement_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM added GROUP BY movement_id HAVING sum(amount) <> 0) THEN
    RAISE 'entries must be added to a movement all at once, summing to zero' USING ERRCODE = 'KT901';
  END IF;
  RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER entry_immutable BEFORE UPDATE OR DELETE ON entry
  FOR EACH ROW EXECUTE FUNCTION ledger_immutable();
CREATE OR REPLACE TRIGGER entry_no_truncate BEFORE TRUNCATE ON entry
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_immutable();
CREATE OR REPLACE TRIGGER movement_immutable BEFORE UPDATE OR DELETE ON movement
  FOR EACH ROW EXECUTE FUNCTION ledger_immutable();
CREATE OR REPLACE TRIGGER movement_no_truncate BEFORE TRUNCATE ON movement
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_immutable();
CREATE OR REPLACE TRIGGER entry_balanced AFTER INSERT ON entry REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_statement_balanced();
DROP TRIGGER IF EXISTS movement_balanced ON movement;
CREATE CONSTRAINT TRIGGER movement_balanced AFTER INSERT ON movement DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION ledger_balanced();

CREATE OR REPLACE FUNCTION ledger_amount(p_amount bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF p_amount > 0 IS NOT TRUE THEN
    RAISE 'an amount to move is positive, not %', p_amount USING ERRCODE = 'KT905';
  END IF;
END $$;

-- A business id came again: it must name the same movement, or a payment would be lost in silence.
CREATE OR REPLACE FUNCTION ledger_replay(p_kind text, p_account uuid, p_amount bigint, p_business_id text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM movement JOIN entry ON entry.movement_id = movement.id AND entry.book = 'clearing'
      WHERE business_id = p_business_id AND kind = p_kind AND movement.account_id = p_account
        AND abs(entry.amount) = p_amount) THEN
    RAISE 'business id % names another movement', p_business_id USING ERRCODE = 'KT903';
  END IF;
END $$;

-- Money comes in. A debt is repaid first, as an entry of its own. A replay of the same business id changes nothing.
CREATE OR REPLACE FUNCTION topup(p_account uuid, p_amount bigint, p_business_id text, p_request_id text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_movement bigint;
  v_wallet wallet;
  v_repaid bigint;
BEGIN
  PERFORM ledger_amount(p_amount);
  INSERT INTO movement (kind, business_id, account_id, request_id)
    VALUES ('topup', p_business_id, p_account, p_request_id)
    ON CONFLICT (business_id) DO NOTHING RETURNING id INTO v_movement;
  IF v_movement IS NULL THEN
    PERFORM ledger_replay('topup', p_account, p_amount, p_business_id);
    RETURN false;
  END IF;
  SELECT * INTO v_wallet FROM wallet WHERE account_id = p_account FOR UPDATE;
  IF NOT FOUND THEN
    RAISE 'no wallet' USING ERRCODE = 'KT404';
  END IF;
  v_repaid := least(p_amount, v_wallet.debt);
  UPDATE wallet SET debt = debt - v_repaid, available = available + p_amount - v_repaid
    WHERE account_id = p_account RETURNING * INTO v_wallet;
  INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after)
    SELECT v_movement, seq, book, account, amount, balance_after FROM (VALUES
      (1, 'clearing', NULL::uuid, -p_amount, NULL::bigint),
      (2, 'debt', p_account, v_repaid, -v_wallet.debt),
      (3, 'available', p_account, p_amount - v_repaid, v_wallet.available)
    ) AS line (seq, book, account, amount, balance_after) WHERE amount <> 0;
  RETURN true;
END $$;

-- A bank takes money back: from what is available, and what is missing becomes debt.
CREATE OR REPLACE FUNCTION chargeback(p_account uuid, p_amount bigint, p_business_id text, p_request_id text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_movement bigint;
  v_wallet wallet;
  v_taken bigint;
BEGIN
  PERFORM ledger_amount(p_amount);
  INSERT INTO movement (kind, business_id, account_id, request_id)
    VALUES ('chargeback', p_business_id, p_account, p_request_id)
    ON CONFLICT (business_id) DO NOTHING RETURNING id INTO v_movement;
  IF v_movement IS NULL THEN
    PERFORM ledger_replay('chargeback', p_account, p_amount, p_business_id);
    RETURN false;
  END IF;
  SELECT * INTO v_wallet FROM wallet WHERE account_id = p_account FOR UPDATE;
  IF NOT FOUND THEN
    RAISE 'no wallet' USING ERRCODE = 'KT404';
  END IF;
  v_taken := least(p_amount, v_wallet.available);
  UPDATE wallet SET available = available - v_taken, debt = debt + p_amount - v_taken
    WHERE account_id = p_account RETURNING * INTO v_wallet;
  INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after)
    SELECT v_movement, seq, book, account, amount, balance_after FROM (VALUES
      (1, 'available', p_account, -v_taken, v_wallet.available),
      (2, 'debt', p_account, v_taken - p_amount, -v_wallet.debt),
      (3, 'clearing', NULL::uuid, p_amount, NULL::bigint)
    ) AS line (seq, book, account, amount, balance_after) WHERE amount <> 0;
  RETURN true;
END $$;

-- Set an amount aside; returns what stays available.
CREATE OR REPLACE FUNCTION hold_open(p_hold uuid, p_account uuid, p_amount bigint, p_request_id text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  v_movement bigint;
  v_wallet wallet;
BEGIN
  INSERT INTO hold (id, account_id, amount) VALUES (p_hold, p_account, p_amount);
  INSERT INTO movement (kind, business_id, account_id, hold_id, request_id)
    VALUES ('hold', 'hold:' || p_hold, p_account, p_hold, p_request_id) RETURNING id INTO v_movement;
  UPDATE wallet SET available = available - p_amount, held = held + p_amount
    WHERE account_id = p_account AND available >= p_amount AND debt = 0 RETURNING * INTO v_wallet;
  IF NOT FOUND THEN
    RAISE 'insufficient balance' USING ERRCODE = 'KT402', DETAIL = coalesce(
      (SELECT CASE WHEN debt > 0 THEN -debt ELSE available END FROM wallet WHERE account_id = p_account), 0);
  END IF;
  INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after) VALUES
    (v_movement, 1, 'available', p_account, -p_amount, v_wallet.available),
    (v_movement, 2, 'held', p_account, p_amount, v_wallet.held);
  RETURN v_wallet.available;
END $$;

-- End a hold once: the whole amount becomes revenue, or goes back (to a debt first). Returns the hold's true state.
CREATE OR REPLACE FUNCTION hold_settle(p_hold uuid, p_capture boolean, p_request_id text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_hold hold;
  v_movement bigint;
  v_wallet wallet;
  v_repaid bigint := 0;
  v_back bigint := 0;
BEGIN
  UPDATE hold SET state = CASE WHEN p_capture THEN 'captured' ELSE 'released' END, ended_at = clock_timestamp()
    WHERE id = p_hold AND state = 'held' RETURNING * INTO v_hold;
  IF NOT FOUND THEN
    RETURN (SELECT state FROM hold WHERE id = p_hold);
  END IF;
  INSERT INTO movement (kind, business_id, account_id, hold_id, request_id)
    VALUES (CASE WHEN p_capture THEN 'capture' ELSE 'release' END, 'settle:' || p_hold, v_hold.account_id, p_hold,
            p_request_id) RETURNING id INTO v_movement;
  SELECT * INTO v_wallet FROM wallet WHERE account_id = v_hold.account_id FOR UPDATE;
  IF NOT p_capture THEN
    v_repaid := least(v_hold.amount, v_wallet.debt);
    v_back := v_hold.amount - v_repaid;
  END IF;
  UPDATE wallet SET held = held - v_hold.amount, debt = debt - v_repaid, available = available + v_back
    WHERE account_id = v_hold.account_id RETURNING * INTO v_wallet;
  INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after)
    SELECT v_movement, seq, book, account, amount, balance_after FROM (VALUES
      (1, 'held', v_hold.account_id, -v_hold.amount, v_wallet.held),
      (2, 'revenue', NULL::uuid, v_hold.amount - v_repaid - v_back, NULL::bigint),
      (3, 'debt', v_hold.account_id, v_repaid, -v_wallet.debt),
      (4, 'available', v_hold.account_id, v_back, v_wallet.available)
    ) AS line (seq, book, account, amount, balance_after) WHERE amount <> 0;
  RETURN v_hold.state;
END $$;

-- Wallets that differ from the sum of their entries, or from their open holds. No row is the only good answer.
CREATE OR REPLACE VIEW drift AS
  WITH book AS (
    SELECT account_id, coalesce(sum(amount) FILTER (WHERE book = 'available'), 0) AS available,
      coalesce(sum(amount) FILTER (WHERE book = 'held'), 0) AS held,
      -coalesce(sum(amount) FILTER (WHERE book = 'debt'), 0) AS debt
    FROM entry WHERE account_id IS NOT NULL GROUP BY account_id
  ), open AS (
    SELECT account_id, sum(amount) AS held FROM hold WHERE state = 'held' GROUP BY account_id
  )
  SELECT account_id, wallet.available, wallet.held, wallet.debt,
    coalesce(book.available, 0) AS entries_available, coalesce(book.held, 0) AS entries_held,
    coalesce(book.debt, 0) AS entries_debt, coalesce(open.held, 0) AS open_holds
  FROM wallet LEFT JOIN book USING (account_id) LEFT JOIN open USING (account_id)
  WHERE (wallet.available, wallet.held, wallet.debt, wallet.held) IS DISTINCT FROM
    (coalesce(book.available, 0), coalesce(book.held, 0), coalesce(book.debt, 0), coalesce(open.held, 0));
