-- Whether a refund of what was collected of a current charge has no result yet. Not inlined on purpose: a plan that is kept must
-- not come to read the whole table.
CREATE OR REPLACE FUNCTION refund_open(p_id bigint, p_period int) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = public, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM charge_aside WHERE subscription_id = p_id AND period = p_period AND open <> 0);
END $$;
