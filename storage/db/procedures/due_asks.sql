-- UNKNOWN attempts of these shards that are to be looked at, the longest overdue first, so many per carrier: the intent,
-- who may still write under its key, and what was asked so far. Instants are microseconds of the database's clock.
CREATE OR REPLACE FUNCTION due_asks(p_shards int[], p_carriers int[], p_limits int[]) RETURNS TABLE (
    now_us bigint, subscription_id bigint, period int, attempt_no int2, op int2, parent_no int2, amount_minor bigint,
    currency int2, round int2, step int2, not_before_ms bigint, not_after_ms bigint, book_version int,
    business_at_ms bigint, digest_hi bigint, digest_lo bigint, intent_us bigint, since_us bigint, reason int2,
    carrier_txn_id text, sender bigint, sender_fenced_us bigint, last_write_us bigint, last_writer bigint,
    writer_fenced_us bigint, failed_over_us bigint, asks int2, flags int, agreed_until_ms bigint, no_repeat bool, ask_kinds int2[], asked_us bigint[], answered_us bigint[],
    findings int2[], reasons int2[], moveds bigint[]
)
-- The first few of an index that is in this sequence. After mass kills tens of thousands are due while the statistics say
-- a handful: without a word the planner reads and sorts all of them, a hundred times slower.
LANGUAGE sql STABLE SET search_path = public, pg_temp SET enable_bitmapscan = off SET enable_sort = off AS $$
    SELECT us(now()), o.subscription_id, o.period, o.attempt_no, i.op, i.parent_no, i.amount_minor,
           i.currency, i.round, i.step, i.not_before_ms, i.not_after_ms, i.book_version,
           i.business_at_ms, i.digest_hi, i.digest_lo, us(i.intent_at), us(o.since), o.reason,
           o.carrier_txn_id, i.incarnation, us(sender.fenced_at), us(o.last_write_at), o.last_writer,
           us(writer.fenced_at), (SELECT us(max(q.found_at)) FROM quarantine q WHERE q.found_at >= i.intent_at), o.asks, s.flags, least(s.stop_at_ms, s.consent_until_ms),
           -- Nobody knows whether it was sent, held against the caps, or settled and followed by another; or a later attempt of
           -- the charge is listed, so that this one was settled once.
           EXISTS (SELECT FROM lost_attempt l
                    WHERE l.subscription_id = o.subscription_id AND l.period = o.period
                      AND (l.attempt_no > o.attempt_no OR l.attempt_no = o.attempt_no AND l.chain)), a.kinds, a.asked, a.answered, a.findings, a.reasons, a.moveds
      FROM unnest(p_carriers, p_limits) AS room (carrier_no, places)
     CROSS JOIN LATERAL (SELECT x.* FROM attempt_open x
                          WHERE x.kind = 2 AND x.subscription_id >> 44 = room.carrier_no AND x.next_ask_at <= now()
                            AND (x.subscription_id >> 32)::int = ANY (p_shards)
                          ORDER BY x.next_ask_at LIMIT room.places) AS o
      JOIN attempt_intent i
        ON i.subscription_id = o.subscription_id AND i.period = o.period AND i.attempt_no = o.attempt_no
      JOIN subscription s ON s.id = o.subscription_id
      LEFT JOIN worker_incarnation sender ON sender.incarnation = i.incarnation
      LEFT JOIN worker_incarnation writer ON writer.incarnation = o.last_writer
      LEFT JOIN LATERAL (SELECT array_agg(k.kind ORDER BY k.ask_no) AS kinds,
                                array_agg(us(k.asked_at) ORDER BY k.ask_no) AS asked,
                                array_agg(us(k.answered_at) ORDER BY k.ask_no) AS answered,
                                array_agg(k.finding ORDER BY k.ask_no) AS findings,
                                array_agg(k.reason ORDER BY k.ask_no) AS reasons,
                                array_agg(k.moved_minor ORDER BY k.ask_no) AS moveds
                           FROM attempt_ask k
                          WHERE k.subscription_id = o.subscription_id AND k.period = o.period
                            AND k.attempt_no = o.attempt_no) AS a ON true
$$;
