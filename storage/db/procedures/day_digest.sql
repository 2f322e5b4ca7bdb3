-- The digest of a sealed day: over the digest of the day before, the date and the totals per account, each named by
-- its key so that an account that changes its owner is found too.
CREATE OR REPLACE FUNCTION day_digest(p_before bytea, p_business_date int) RETURNS bytea
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT sha256(coalesce(p_before, ''::bytea) || convert_to(p_business_date::text || coalesce((
        SELECT string_agg(format(';%s.%s.%s.%s:%s:%s', a.owner_kind, a.owner_id, a.purpose, a.asset, d.debit, d.credit),
                          '' ORDER BY a.owner_kind, a.owner_id, a.purpose, a.asset)
          FROM account_day d JOIN account a ON a.id = d.account_id
         WHERE d.business_date = p_business_date), ''), 'UTF8'))
$$;
