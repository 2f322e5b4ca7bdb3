-- Takes in a batch of a spool's sent lines: those whose intent is not here were lost. Returns how many. Their charges are
-- held from this commit on. A line without its subscription is a case. A wish that the standby still has was carried out by the
-- line that names it: it goes, or it would be carried out again under the next key.
CREATE OR REPLACE FUNCTION hand_in_lines(
    p_host text, p_spool text, p_boot_id text,
    p_ids bigint[], p_periods int[], p_attempt_nos int2[], p_ops int2[], p_rounds int2[], p_steps int2[], p_amounts bigint[],
    p_currencies int2[], p_digest_his bigint[], p_digest_los bigint[], p_not_befores bigint[], p_not_afters bigint[],
    p_rules int2[], p_book_versions int[], p_parents int2[], p_incarnations bigint[], p_intent_us bigint[], p_business_ms bigint[],
    p_wishes bigint[]
) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_lost bigint;
BEGIN
    -- An incarnation that only its spool knows: its registration was lost too. It is dead, since this is its spool. Which slot
    -- it had nobody knows (0), and it lived when it wrote its first line.
    INSERT INTO worker_incarnation (incarnation, slot, epoch, host, boot_id, spool, endpoint, started_at, fenced_at)
    SELECT n.incarnation, 0, hashint8(n.incarnation) & 2147483647, p_host, p_boot_id, p_spool, '',
           least(now(), timestamptz 'epoch' + n.first_us * interval '1 microsecond'), now()
      FROM (SELECT incarnation, min(intent_us) AS first_us
              FROM unnest(p_incarnations, p_intent_us) AS u (incarnation, intent_us) GROUP BY 1) AS n
     WHERE NOT EXISTS (SELECT FROM worker_incarnation w WHERE w.incarnation = n.incarnation)
        ON CONFLICT DO NOTHING;
    WITH line AS (
        SELECT * FROM unnest(p_ids, p_periods, p_attempt_nos, p_ops, p_rounds, p_steps, p_amounts, p_currencies, p_digest_his,
                             p_digest_los, p_not_befores, p_not_afters, p_rules, p_book_versions, p_parents, p_incarnations,
                             p_intent_us, p_business_ms, p_wishes)
               AS l (id, period, attempt_no, op, round, step, amount, currency, digest_hi, digest_lo, not_before, not_after,
                     rule, book_version, parent, incarnation, intent_us, business_ms, wish)
    ), missing AS (
        INSERT INTO lost_attempt (subscription_id, amount_minor, digest_hi, digest_lo, not_before_ms, not_after_ms,
            business_at_ms, incarnation, intent_at, period, book_version, attempt_no, op, round, step, currency, rule_id,
            parent_no, state)
        SELECT l.id, l.amount, l.digest_hi, l.digest_lo, l.not_before, l.not_after, l.business_ms, l.incarnation,
               timestamptz 'epoch' + l.intent_us * interval '1 microsecond', l.period, l.book_version, l.attempt_no, l.op,
               l.round, l.step, l.currency, l.rule, l.parent, CASE WHEN s.id IS NULL THEN 3 ELSE 0 END
          FROM line l LEFT JOIN subscription s ON s.id = l.id
         WHERE NOT EXISTS (SELECT FROM attempt_intent i
                            WHERE i.subscription_id = l.id AND i.period = l.period AND i.attempt_no = l.attempt_no)
            ON CONFLICT DO NOTHING
        RETURNING subscription_id, period, attempt_no, amount_minor, currency, op, state
    ), orphans AS (
        INSERT INTO case_file (subscription_id, period, attempt_no, kind, what)
        SELECT subscription_id, period, attempt_no, 'lost_subscription',
               format('a request over %s minor units of currency %s (operation %s) was sent before a failover that lost its subscription',
                      amount_minor, currency, op)
          FROM missing WHERE state = 3
    ), carried_out AS (
        DELETE FROM shard_inbox b USING line l
         WHERE l.wish <> 0 AND b.shard = (l.id >> 32)::int AND b.id = l.wish AND b.subscription_id = l.id
    )
    SELECT count(*) INTO v_lost FROM missing;
    UPDATE shard_owner o SET held = 2
     WHERE o.held = 0 AND o.shard = ANY (ARRAY(SELECT DISTINCT (id >> 32)::int FROM unnest(p_ids) AS u (id)))
       AND EXISTS (SELECT FROM lost_attempt l
                    WHERE l.subscription_id BETWEEN o.shard::bigint << 32 AND (o.shard::bigint << 32) + 4294967295 AND l.state < 3);
    RETURN v_lost;
END $$;
