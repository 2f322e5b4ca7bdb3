-- The digest of a closed month (202612): over the digest of the month before and those of its days.
CREATE OR REPLACE FUNCTION month_digest(p_before bytea, p_month int) RETURNS bytea
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT sha256(coalesce(p_before, ''::bytea) || convert_to(p_month::text, 'UTF8') || coalesce((
        SELECT string_agg(digest, ''::bytea ORDER BY business_date) FROM day_seal
         WHERE to_char(date '2000-01-01' + business_date, 'YYYYMM')::int = p_month), ''::bytea))
$$;
