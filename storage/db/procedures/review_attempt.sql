-- An unknown attempt goes to the people, with the rule that says why. It still blocks, and late evidence still settles
-- it. False when the shard is not ours or the attempt is not unknown any more.
CREATE OR REPLACE FUNCTION review_attempt(
    p_slot int, p_incarnation bigint, p_epoch int, p_id bigint, p_period int, p_attempt_no int2, p_rule int2
) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    UPDATE attempt_open SET kind = 3, rule_id = p_rule, assignee = coalesce(assignee, 'operations')
     WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no AND kind = 2
       AND EXISTS (SELECT FROM shard_owner WHERE shard = (p_id >> 32)::int AND slot = p_slot);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- The charge that it blocks: the subscription's own, or one with a row of its own.
    UPDATE charge_aside SET open = 3, rev = rev + 1
     WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no AND open = 2;
    IF NOT FOUND THEN
        UPDATE subscription SET open = 3, rev = rev + 1
         WHERE id = p_id AND period = p_period AND attempt_no = p_attempt_no AND open = 2;
    END IF;
    RETURN true;
END $$;
