-- Deletes minute counts older than an instant, at most p_limit of them, and returns how many: statistics, never money.
CREATE OR REPLACE FUNCTION trim_minutes(p_before_ms bigint, p_limit int) RETURNS int
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_deleted int;
BEGIN
    DELETE FROM charge_minute
     WHERE ctid = ANY (ARRAY(SELECT ctid FROM charge_minute WHERE minute_ms < p_before_ms LIMIT p_limit));
    GET DIAGNOSTICS v_deleted = ROW_COUNT;
    RETURN v_deleted;
END $$;
