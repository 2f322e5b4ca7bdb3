-- The business date that a posting of this commit falls on: the given one, or the first that is not closed. Holds the
-- ledger's lock shared until the commit, so that close_days waits for it and later postings see the new date.
CREATE OR REPLACE FUNCTION open_date(p_business_date int) RETURNS int
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7130005);
    -- A statement of its own, and so a snapshot taken after the lock.
    RETURN (SELECT greatest(p_business_date, closed_date + 1) FROM ledger_open);
END $$;
