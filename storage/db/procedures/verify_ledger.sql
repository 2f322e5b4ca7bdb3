-- Counts everything again and says where it differs from what was sealed: days whose totals are not those of their
-- transfers, broken digests, balances that are not the sum of their transfers. No row: nothing differs. Reads every
-- transfer: for a person who asks, never for a loop.
CREATE OR REPLACE FUNCTION verify_ledger() RETURNS TABLE (place text, what text)
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    WITH sums AS MATERIALIZED (
        SELECT t.business_date, m.account_id, sum(m.debit) AS debit, sum(m.credit) AS credit
          FROM transfer t
         CROSS JOIN LATERAL (VALUES (t.debit_account, t.amount, 0::bigint), (t.credit_account, 0::bigint, t.amount))
               AS m (account_id, debit, credit)
         GROUP BY t.business_date, m.account_id),
    sealed AS (SELECT min(business_date) AS low, max(business_date) AS high FROM day_seal),
    days AS (
        SELECT business_date, digest, lag(digest) OVER w AS before,
               business_date - lag(business_date) OVER w AS step
          FROM day_seal WINDOW w AS (ORDER BY business_date)),
    months AS (SELECT month, digest, lag(digest) OVER (ORDER BY month) AS before FROM month_seal)
    SELECT 'day ' || (date '2000-01-01' + coalesce(s.business_date, d.business_date)) || ', account '
               || coalesce(s.account_id, d.account_id),
           format('sealed with debit %s and credit %s, its transfers say %s and %s', coalesce(d.debit, 0),
               coalesce(d.credit, 0), coalesce(s.debit, 0), coalesce(s.credit, 0))
      FROM (SELECT * FROM sums, sealed WHERE business_date <= high) AS s
      FULL JOIN account_day d ON d.business_date = s.business_date AND d.account_id = s.account_id
     WHERE coalesce(d.debit, 0) <> coalesce(s.debit, 0) OR coalesce(d.credit, 0) <> coalesce(s.credit, 0)
    UNION ALL
    SELECT 'day ' || (date '2000-01-01' + business_date), 'the day before it has no seal' FROM days WHERE step <> 1
    UNION ALL
    SELECT 'day ' || (date '2000-01-01' + business_date), 'its digest is not that of its totals and of the day before'
      FROM days WHERE digest <> day_digest(before, business_date)
    UNION ALL
    SELECT 'month ' || month, 'its digest is not that of its days and of the month before'
      FROM months WHERE digest <> month_digest(before, month)
    UNION ALL
    SELECT 'account ' || coalesce(b.account_id, s.account_id),
           format('its balance is %s, its transfers say %s', coalesce(b.posted, 0), coalesce(s.posted, 0))
      FROM (SELECT account_id, sum(posted) AS posted FROM account_balance GROUP BY 1) AS b
      FULL JOIN (SELECT account_id, sum(debit) - sum(credit) AS posted FROM sums GROUP BY 1) AS s USING (account_id)
     WHERE coalesce(b.posted, 0) <> coalesce(s.posted, 0)
$$;
