-- Sums a closed business date into account_day and seals it. Days are sealed one after the other: the given one has to
-- follow the last sealed one. Returns how many transfers it holds.
CREATE OR REPLACE FUNCTION seal_day(p_business_date int) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    last_day int;
    before   bytea;
    counted  bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7130006);
    IF (SELECT closed_date FROM ledger_open) < p_business_date THEN
        RAISE EXCEPTION 'business date % is still open', date '2000-01-01' + p_business_date USING ERRCODE = 'TB004';
    END IF;
    SELECT business_date, digest INTO last_day, before FROM day_seal ORDER BY business_date DESC LIMIT 1;
    IF last_day IS NOT NULL AND last_day + 1 <> p_business_date THEN
        RAISE EXCEPTION 'the last sealed business date is %: % does not follow it',
            date '2000-01-01' + last_day, date '2000-01-01' + p_business_date USING ERRCODE = 'TB004';
    END IF;
    INSERT INTO account_day (debit, credit, business_date, account_id)
    SELECT sum(m.debit), sum(m.credit), p_business_date, m.account_id
      FROM transfer t
     CROSS JOIN LATERAL (VALUES (t.debit_account, t.amount, 0::bigint), (t.credit_account, 0::bigint, t.amount))
           AS m (account_id, debit, credit)
     WHERE t.business_date = p_business_date
     GROUP BY m.account_id;
    SELECT count(*) INTO counted FROM transfer WHERE business_date = p_business_date;
    INSERT INTO day_seal (business_date, transfers, digest)
    VALUES (p_business_date, counted, day_digest(before, p_business_date));
    RETURN counted;
END $$;
