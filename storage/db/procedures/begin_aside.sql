-- Whether a charge with a row of its own may have this attempt: the one after its last, and none is open.
CREATE OR REPLACE FUNCTION begin_aside(p_id bigint, p_period int, p_attempt_no int2) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = public, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM charge_aside
                    WHERE subscription_id = p_id AND period = p_period AND open = 0 AND attempt_no + 1 = p_attempt_no);
END $$;
