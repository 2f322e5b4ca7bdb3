-- Lists attempts that the owner would begin now as possibly sent before a failover, because a spool is missing. Where
-- p_chain, only those that follow an attempt which the carrier knew, or one that was proven not to have been applied, as long
-- as a sender without its spool may have gone on (doubt_until). The wish that one began with goes in the same commit.
-- Returns how many are listed.
CREATE OR REPLACE FUNCTION list_doubts(
    p_slot int, p_incarnation bigint, p_epoch int, p_chain bool, p_ids bigint[], p_periods int[], p_attempt_nos int2[],
    p_ops int2[], p_rounds int2[], p_steps int2[], p_amounts bigint[], p_currencies int2[], p_digest_his bigint[],
    p_digest_los bigint[], p_not_befores bigint[], p_not_afters bigint[], p_rules int2[], p_book_versions int[],
    p_parents int2[], p_incarnations bigint[], p_intent_us bigint[], p_business_ms bigint[], p_wishes bigint[]
) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_listed bigint;
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    WITH wanted AS (
        SELECT * FROM unnest(p_ids, p_periods, p_attempt_nos, p_ops, p_rounds, p_steps, p_amounts, p_currencies, p_digest_his,
                             p_digest_los, p_not_befores, p_not_afters, p_rules, p_book_versions, p_parents, p_incarnations,
                             p_intent_us, p_business_ms, p_wishes)
               AS l (id, period, attempt_no, op, round, step, amount, currency, digest_hi, digest_lo, not_before, not_after,
                     rule, book_version, parent, incarnation, intent_us, business_ms, wish)
         WHERE EXISTS (SELECT FROM shard_owner o WHERE o.shard = (l.id >> 32)::int AND o.slot = p_slot)
           AND (NOT p_chain OR EXISTS (SELECT FROM lost_attempt k
                                         LEFT JOIN attempt_outcome o USING (subscription_id, period, attempt_no)
                                        WHERE k.subscription_id = l.id AND k.period = l.period
                                          AND k.attempt_no < l.attempt_no AND k.state = 2
                                          AND (o.class IS NULL OR NOT may_be_followed(o.class, k.op, o.rule_id)
                                               OR l.intent_us <= us(doubt_until((l.id >> 32)::int)))))
           AND NOT EXISTS (SELECT FROM attempt_intent i
                            WHERE i.subscription_id = l.id AND i.period = l.period AND i.attempt_no = l.attempt_no)
    ), gone AS (
        DELETE FROM lost_attempt k USING wanted w
         WHERE k.subscription_id = w.id AND k.period = w.period AND k.attempt_no < w.attempt_no AND k.state = 2
    ), listed AS (
        INSERT INTO lost_attempt (subscription_id, amount_minor, digest_hi, digest_lo, not_before_ms, not_after_ms,
            business_at_ms, incarnation, intent_at, period, book_version, attempt_no, op, round, step, currency, rule_id,
            parent_no, chain, follows)
        SELECT w.id, w.amount, w.digest_hi, w.digest_lo, w.not_before, w.not_after, w.business_ms,
               -- Whoever has not handed in its spool may have sent it: one that lived then, else the one that began last before,
               -- else the next.
               coalesce((SELECT i.incarnation FROM quarantine_spool p JOIN worker_incarnation i USING (host, spool, boot_id)
                          WHERE p.handed_in_at IS NULL AND NOT p_chain
                          ORDER BY us(i.started_at) > w.intent_us, coalesce(us(i.fenced_at) < w.intent_us, false), abs(us(i.started_at) - w.intent_us), i.incarnation LIMIT 1), w.incarnation),
               timestamptz 'epoch' + w.intent_us * interval '1 microsecond', w.period, w.book_version, w.attempt_no, w.op,
               w.round, w.step, w.currency, w.rule, w.parent, true, p_chain
          FROM wanted w
            ON CONFLICT DO NOTHING
        RETURNING subscription_id, period, attempt_no
    ), carried_out AS (
        DELETE FROM shard_inbox b
         USING wanted w JOIN listed l ON l.subscription_id = w.id AND l.period = w.period AND l.attempt_no = w.attempt_no
         WHERE w.wish <> 0 AND b.shard = (w.id >> 32)::int AND b.id = w.wish AND b.subscription_id = w.id
    ), held AS (
        UPDATE shard_owner o SET held = 2
         WHERE o.held = 0 AND o.shard IN (SELECT (subscription_id >> 32)::int FROM listed)
    )
    SELECT count(*) INTO v_listed FROM listed;
    RETURN v_listed;
END $$;
