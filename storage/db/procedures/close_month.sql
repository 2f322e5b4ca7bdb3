-- Closes a month (202612): every day of it has to be sealed, and the month before closed when there was one. From then
-- on verify_ledger finds any change to it.
CREATE OR REPLACE FUNCTION close_month(p_month int) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    first_day  int := make_date(p_month / 100, p_month % 100, 1) - date '2000-01-01';
    next_month int := (make_date(p_month / 100, p_month % 100, 1) + interval '1 month')::date - date '2000-01-01';
    last_month int;
    before     bytea;
BEGIN
    PERFORM pg_advisory_xact_lock(7130006);
    IF NOT EXISTS (SELECT FROM day_seal WHERE business_date >= next_month - 1) THEN
        RAISE EXCEPTION 'the days of % are not all sealed: seal them until % first', p_month,
            date '2000-01-01' + next_month - 1 USING ERRCODE = 'TB004';
    END IF;
    SELECT month, digest INTO last_month, before FROM month_seal ORDER BY month DESC LIMIT 1;
    IF last_month >= p_month THEN
        RAISE EXCEPTION 'month % is closed already (the last closed one is %)', p_month, last_month USING ERRCODE = 'TB004';
    END IF;
    IF EXISTS (SELECT FROM day_seal WHERE business_date < first_day
                  AND to_char(date '2000-01-01' + business_date, 'YYYYMM')::int > coalesce(last_month, 0)) THEN
        RAISE EXCEPTION 'months before % are not closed yet (the last closed one is %)', p_month,
            coalesce(last_month::text, 'none') USING ERRCODE = 'TB004';
    END IF;
    INSERT INTO month_seal (month, digest) VALUES (p_month, month_digest(before, p_month));
END $$;
