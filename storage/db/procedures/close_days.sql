-- From now on nothing is posted on business dates up to p_until; what comes late falls on the next open one. Waits for
-- the batches in flight. The dates are summed and sealed afterwards (seal_day), without holding anybody up.
CREATE OR REPLACE FUNCTION close_days(p_until int) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7130005);
    UPDATE ledger_open SET closed_date = p_until WHERE closed_date < p_until;
END $$;
