-- Sets a poison subscription aside: nothing of it is sent any more, people get one case, nobody else is held up. An
-- attempt that was on its way stays UNKNOWN. Returns false when the row changed meanwhile; a row that was aside before
-- gets no second case (a stale entry of the wheel may show it again).
CREATE OR REPLACE FUNCTION quarantine(
    p_slot int, p_incarnation bigint, p_epoch int, p_id bigint, p_rev int, p_period int, p_attempt_no int2, p_why text
) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_before boolean;
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    PERFORM FROM subscription WHERE id = p_id AND rev = p_rev AND flags & 1 = 1;
    v_before := FOUND;
    UPDATE subscription SET flags = flags | 1, rev = rev + 1, next_at_ms = NULL, next_kind = 0
     WHERE id = p_id AND rev = p_rev AND NOT v_before
       AND EXISTS (SELECT FROM shard_owner WHERE shard = (p_id >> 32)::int AND slot = p_slot);
    IF NOT FOUND AND NOT v_before THEN
        RETURN false;
    END IF;
    IF p_attempt_no > 0 THEN
        INSERT INTO attempt_open (subscription_id, amount_minor, period, attempt_no, kind, reason, rule_id, currency)
        SELECT subscription_id, amount_minor, period, attempt_no, 2, 84, 14, currency
          FROM attempt_intent
         WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no
            ON CONFLICT DO NOTHING;
    END IF;
    IF NOT v_before THEN
        INSERT INTO case_file (subscription_id, period, attempt_no, kind, what)
        VALUES (p_id, nullif(p_period, -1), nullif(p_attempt_no, 0), 'quarantine', left(p_why, 1000));
    END IF;
    RETURN true;
END $$;
