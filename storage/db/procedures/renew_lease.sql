-- Renews a lease; false when the worker is fenced.
CREATE OR REPLACE FUNCTION renew_lease(p_slot int, p_incarnation bigint, p_epoch int) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE worker_lease SET renewals = renewals + 1
     WHERE slot = p_slot AND incarnation = p_incarnation AND epoch = p_epoch;
    RETURN FOUND;
END $$;
