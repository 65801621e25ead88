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

-- What a movement's hash covers besides the hash before it. `p_lines` are its entries in their order, `book:amount:balance_after`
-- joined by `;` (no balance for the platform's books). The hash is SHA-256(hash before || this text in UTF-8), and the first
-- movement of an account follows 32 zero bytes; wallet.chain is the newest one. billing/chain.py verifies the same.
CREATE OR REPLACE FUNCTION movement_text(p_kind text, p_at timestamptz, p_lines text, p_business_id text)
RETURNS bytea LANGUAGE sql STABLE AS $$
  SELECT convert_to(format('%s|%s|%s|%s', p_kind, (extract(epoch FROM p_at) * 1000000)::bigint, p_lines, p_business_id), 'UTF8')
$$;

-- Whether this business id has moved money already: then it must name the same movement, or a payment would be lost in
-- silence. The caller holds the wallet's row.
CREATE OR REPLACE FUNCTION ledger_replayed(p_kind text, p_account uuid, p_amount bigint, p_business_id text)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM movement WHERE business_id = p_business_id) THEN
    RETURN false;
  END IF;
  IF NOT EXISTS (SELECT FROM movement JOIN entry ON entry.movement_id = movement.id AND entry.book = 'clearing'
      WHERE business_id = p_business_id AND kind = p_kind AND movement.account_id = p_account
        AND abs(entry.amount) = p_amount) THEN
    RAISE 'business id % names another movement', p_business_id USING ERRCODE = 'KT903';
  END IF;
  RETURN true;
END $$;

-- Write down a movement whose effect the wallet already has: its row, its entries, its place in the chain. `p_books`,
-- `p_amounts` and `p_balances` are its lines; a line of zero is left out, a balance is NULL for the platform's books.
CREATE OR REPLACE FUNCTION ledger_write(p_kind text, p_business_id text, p_account uuid, p_hold uuid, p_request_id text,
  p_books text[], p_amounts bigint[], p_balances bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_at timestamptz := clock_timestamp();
  v_movement bigint;
  v_chain bytea;
  v_lines text;
BEGIN
  SELECT string_agg(book || ':' || amount || ':' || coalesce(balance::text, ''), ';' ORDER BY seq) INTO v_lines
    FROM unnest(p_books, p_amounts, p_balances) WITH ORDINALITY AS line (book, amount, balance, seq) WHERE amount <> 0;
  UPDATE wallet SET chain = sha256(chain || movement_text(p_kind, v_at, v_lines, p_business_id))
    WHERE account_id = p_account RETURNING chain INTO v_chain;
  INSERT INTO movement (kind, business_id, account_id, hold_id, request_id, created_at, hash)
    VALUES (p_kind, p_business_id, p_account, p_hold, p_request_id, v_at, v_chain) RETURNING id INTO v_movement;
  INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after)
    SELECT v_movement, row_number() OVER (ORDER BY seq), book, CASE WHEN balance IS NOT NULL THEN p_account END, amount, balance
      FROM unnest(p_books, p_amounts, p_balances) WITH ORDINALITY AS line (book, amount, balance, seq) WHERE amount <> 0;
EXCEPTION WHEN unique_violation THEN
  RAISE 'business id % names another movement', p_business_id USING ERRCODE = 'KT903';
END $$;

-- Money comes in. A debt is repaid first, as an entry of its own. A replay of the same business id changes nothing.
CREATE OR REPLACE FUNCTION topup(p_account uuid, p_amount bigint, p_business_id text, p_request_id text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_wallet wallet;
  v_repaid bigint;
BEGIN
  PERFORM ledger_amount(p_amount);
  SELECT * INTO v_wallet FROM wallet WHERE account_id = p_account FOR UPDATE;
  IF NOT FOUND THEN
    RAISE 'no wallet' USING ERRCODE = 'KT404';
  END IF;
  IF ledger_replayed('topup', p_account, p_amount, p_business_id) THEN
    RETURN false;
  END IF;
  v_repaid := least(p_amount, v_wallet.debt);
  UPDATE wallet SET debt = debt - v_repaid, available = available + p_amount - v_repaid
    WHERE account_id = p_account RETURNING * INTO v_wallet;
  PERFORM ledger_write('topup', p_business_id, p_account, NULL, p_request_id, ARRAY['clearing', 'debt', 'available'],
    ARRAY[-p_amount, v_repaid, p_amount - v_repaid], ARRAY[NULL, -v_wallet.debt, v_wallet.available]);
  RETURN true;
END $$;

-- A bank takes money back: from what is available, and what is missing becomes debt.
CREATE OR REPLACE FUNCTION chargeback(p_account uuid, p_amount bigint, p_business_id text, p_request_id text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_wallet wallet;
  v_taken bigint;
BEGIN
  PERFORM ledger_amount(p_amount);
  SELECT * INTO v_wallet FROM wallet WHERE account_id = p_account FOR UPDATE;
  IF NOT FOUND THEN
    RAISE 'no wallet' USING ERRCODE = 'KT404';
  END IF;
  IF ledger_replayed('chargeback', p_account, p_amount, p_business_id) THEN
    RETURN false;
  END IF;
  v_taken := least(p_amount, v_wallet.available);
  UPDATE wallet SET available = available - v_taken, debt = debt + p_amount - v_taken
    WHERE account_id = p_account RETURNING * INTO v_wallet;
  PERFORM ledger_write('chargeback', p_business_id, p_account, NULL, p_request_id, ARRAY['available', 'debt', 'clearing'],
    ARRAY[-v_taken, v_taken - p_amount, p_amount], ARRAY[v_wallet.available, -v_wallet.debt, NULL]);
  RETURN true;
END $$;

-- Set an amount aside; returns what stays available. Written out, not by ledger_write, like the capture below: every job
-- passes here, and the wallet's row is written once.
CREATE OR REPLACE FUNCTION hold_open(p_hold uuid, p_account uuid, p_amount bigint, p_request_id text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  v_at timestamptz := clock_timestamp();
  v_business_id text := 'hold:' || p_hold;
  v_movement bigint;
  v_wallet wallet;
BEGIN
  INSERT INTO hold (id, account_id, amount) VALUES (p_hold, p_account, p_amount);
  UPDATE wallet SET available = available - p_amount, held = held + p_amount,
      chain = sha256(chain || movement_text('hold', v_at, format('available:%s:%s;held:%s:%s', -p_amount,
        available - p_amount, p_amount, held + p_amount), v_business_id))
    WHERE account_id = p_account AND available >= p_amount AND debt = 0 RETURNING * INTO v_wallet;
  IF NOT FOUND THEN
    RAISE 'insufficient balance' USING ERRCODE = 'KT402', DETAIL = coalesce(
      (SELECT CASE WHEN debt > 0 THEN -debt ELSE available END FROM wallet WHERE account_id = p_account), 0);
  END IF;
  INSERT INTO movement (kind, business_id, account_id, hold_id, request_id, created_at, hash)
    VALUES ('hold', v_business_id, p_account, p_hold, p_request_id, v_at, v_wallet.chain) RETURNING id INTO v_movement;
  INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after) VALUES
    (v_movement, 1, 'available', p_account, -p_amount, v_wallet.available),
    (v_movement, 2, 'held', p_account, p_amount, v_wallet.held);
  RETURN v_wallet.available;
END $$;

-- End a hold once: the whole amount becomes revenue, or goes back (to a debt first). Returns the hold's true state.
CREATE OR REPLACE FUNCTION hold_settle(p_hold uuid, p_capture boolean, p_request_id text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_at timestamptz := clock_timestamp();
  v_business_id text := 'settle:' || p_hold;
  v_hold hold;
  v_movement bigint;
  v_wallet wallet;
  v_repaid bigint;
BEGIN
  UPDATE hold SET state = CASE WHEN p_capture THEN 'captured' ELSE 'released' END, ended_at = v_at
    WHERE id = p_hold AND state = 'held' RETURNING * INTO v_hold;
  IF NOT FOUND THEN
    RETURN (SELECT state FROM hold WHERE id = p_hold);
  END IF;
  IF NOT p_capture THEN
    SELECT * INTO v_wallet FROM wallet WHERE account_id = v_hold.account_id FOR UPDATE;
    v_repaid := least(v_hold.amount, v_wallet.debt);
    UPDATE wallet SET held = held - v_hold.amount, debt = debt - v_repaid, available = available + v_hold.amount - v_repaid
      WHERE account_id = v_hold.account_id RETURNING * INTO v_wallet;
    PERFORM ledger_write('release', v_business_id, v_hold.account_id, p_hold, p_request_id,
      ARRAY['held', 'debt', 'available'], ARRAY[-v_hold.amount, v_repaid, v_hold.amount - v_repaid],
      ARRAY[v_wallet.held, -v_wallet.debt, v_wallet.available]);
    RETURN v_hold.state;
  END IF;
  UPDATE wallet SET held = held - v_hold.amount,
      chain = sha256(chain || movement_text('capture', v_at, format('held:%s:%s;revenue:%s:', -v_hold.amount,
        held - v_hold.amount, v_hold.amount), v_business_id))
    WHERE account_id = v_hold.account_id RETURNING * INTO v_wallet;
  INSERT INTO movement (kind, business_id, account_id, hold_id, request_id, created_at, hash)
    VALUES ('capture', v_business_id, v_hold.account_id, p_hold, p_request_id, v_at, v_wallet.chain)
    RETURNING id INTO v_movement;
  INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after) VALUES
    (v_movement, 1, 'held', v_hold.account_id, -v_hold.amount, v_wallet.held),
    (v_movement, 2, 'revenue', NULL, v_hold.amount, NULL);
  RETURN v_hold.state;
END $$;

-- Follow an account's chain behind movement `p_after` (0: from its beginning) by `p_most` movements (NULL: all). `broken` is the
-- first whose hash does not follow from the one before, or 0 when the wallet ends elsewhere; `reached` the last one seen, NULL
-- at the chain's end.
CREATE OR REPLACE FUNCTION chain_follow(p_account uuid, p_after bigint, p_most int,
  OUT broken bigint, OUT reached bigint, OUT seen bigint) LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_chain bytea := coalesce((SELECT hash FROM movement WHERE id = p_after AND account_id = p_account),
    decode(repeat('00', 32), 'hex'));
  v_movement record;
BEGIN
  seen := 0;
  FOR v_movement IN
    SELECT id, hash, movement_text(kind, created_at, (
        SELECT string_agg(book || ':' || amount || ':' || coalesce(balance_after::text, ''), ';' ORDER BY seq)
        FROM entry WHERE movement_id = movement.id), business_id) AS body
      FROM movement WHERE account_id = p_account AND id > p_after ORDER BY id LIMIT p_most
  LOOP
    v_chain := sha256(v_chain || v_movement.body);
    seen := seen + 1;
    IF v_movement.hash IS DISTINCT FROM v_chain THEN
      broken := v_movement.id;
      RETURN;
    END IF;
  END LOOP;
  IF seen = p_most THEN
    reached := v_movement.id;
  ELSE
    broken := (SELECT 0 FROM wallet WHERE account_id = p_account AND chain <> v_chain);
  END IF;
END $$;

-- The first break of an account's whole chain, as `broken` above; NULL when it holds.
CREATE OR REPLACE FUNCTION chain_break(p_account uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT broken FROM chain_follow(p_account, 0, NULL)
$$;

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
