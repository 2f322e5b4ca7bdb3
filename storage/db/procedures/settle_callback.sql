-- Settles a carrier's message once, whoever looks at it: what it was, which attempt it is about, and what follows from
-- it, in one commit: evidence for the owner of the shard (`p_evidence`), or a case for people, one of each kind and
-- wording per attempt. Returns false when another process was first.
CREATE OR REPLACE FUNCTION settle_callback(
    p_id bigint, p_state int2, p_subscription_id bigint, p_period int, p_attempt_no int2, p_evidence bytea,
    p_case text, p_what text
) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE callback_inbox
       SET state = p_state, subscription_id = p_subscription_id, period = p_period, attempt_no = p_attempt_no
     WHERE id = p_id AND state = 0;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF p_evidence IS NOT NULL THEN
        INSERT INTO shard_inbox (shard, kind, subscription_id, payload)
        VALUES ((p_subscription_id >> 32)::int, 3, p_subscription_id, p_evidence);
    END IF;
    IF p_case IS NOT NULL THEN
        INSERT INTO case_file (subscription_id, period, attempt_no, kind, what)
        SELECT p_subscription_id, p_period, p_attempt_no, p_case, left(p_what, 1000)
         WHERE NOT EXISTS (SELECT FROM case_file c
                            WHERE c.subscription_id = p_subscription_id AND c.period = p_period
                              AND c.attempt_no = p_attempt_no AND c.kind = p_case AND c.what = left(p_what, 1000));
    END IF;
    RETURN true;
END $$;
