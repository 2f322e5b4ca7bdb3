-- What a question or a repeat brought, when it is looked at next, and, where it settles the attempt, the evidence in the
-- shard's inbox: all of it or nothing. False when the shard is not ours or the attempt is not unknown any more.
CREATE OR REPLACE FUNCTION record_ask(
    p_slot int, p_incarnation bigint, p_epoch int, p_id bigint, p_period int, p_attempt_no int2, p_ask_no int2,
    p_kind int2, p_asked_us bigint, p_finding int2, p_reason int2, p_moved bigint, p_rule int2, p_next_ms bigint,
    p_txn_id text, p_evidence bytea
) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    -- A repeat's answer is kept: no write of it is on its way any more.
    UPDATE attempt_open SET asks = greatest(asks, p_ask_no), next_ask_at = now() + p_next_ms * interval '1 millisecond',
           last_write_at = CASE WHEN p_kind = 1 THEN now() ELSE last_write_at END,
           carrier_txn_id = coalesce(carrier_txn_id, p_txn_id)
     WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no AND kind = 2
       AND EXISTS (SELECT FROM shard_owner WHERE shard = (p_id >> 32)::int AND slot = p_slot);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO attempt_ask (subscription_id, moved_minor, incarnation, asked_at, period, attempt_no, ask_no, kind,
                             finding, reason, rule_id)
    VALUES (p_id, p_moved, p_incarnation, to_timestamp(p_asked_us / 1000000.0), p_period, p_attempt_no, p_ask_no, p_kind,
            p_finding, p_reason, p_rule)
        ON CONFLICT DO NOTHING;
    -- The same call again, because the answer to its commit was lost, posts nothing twice.
    IF FOUND AND p_evidence IS NOT NULL THEN
        INSERT INTO shard_inbox (shard, kind, subscription_id, payload) VALUES ((p_id >> 32)::int, 3, p_id, p_evidence);
    END IF;
    RETURN true;
END $$;
