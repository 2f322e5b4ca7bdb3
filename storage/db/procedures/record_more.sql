-- The rarest parts of record_outcomes, as one document whose entries name the place of their row: anchors, counters of
-- the day and notices (`moves`), grants that do not begin now or are not of everything (`grants`), the second event of
-- a row (`events`), ranges of periods that were passed over (`passed`), another plan or zone (`shifts`), what opens at
-- another carrier when a row closes (`opens`), what a carrier took back (`reversals`).
CREATE OR REPLACE FUNCTION record_more(
    p_business_at_ms bigint, verdicts int2[], p_ids bigint[], p_revs int[], p_periods int[], p_attempt_nos int2[],
    p_rules int2[], e_merchants int[], p_more jsonb
) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_reversed int;
    v_booked   int;
BEGIN
    -- The same row a second time in this commit: its revision was checked and raised before.
    UPDATE subscription AS s
       SET anchor_day = m.anchor_day, anchor_minute = m.anchor_minute, anchor_done = m.anchor_done,
           try_day = m.try_day, day_tries = m.day_tries, notice_at_ms = m.notice_at_ms
      FROM jsonb_to_recordset(p_more -> 'moves')
           AS m (place int, anchor_day int, anchor_minute int2, anchor_done int, try_day int2, day_tries int2,
                 notice_at_ms bigint)
     WHERE s.id = p_ids[m.place] AND (verdicts IS NULL OR verdicts[m.place] = 0);

    UPDATE subscription AS s SET plan_no = m.plan_no, zone_no = m.zone_no
      FROM jsonb_to_recordset(p_more -> 'shifts') AS m (place int, plan_no int, zone_no int2)
     WHERE s.id = p_ids[m.place] AND (verdicts IS NULL OR verdicts[m.place] = 0);
    -- A subscriber lives in one zone.
    UPDATE subscriber AS r SET zone_no = m.zone_no
      FROM jsonb_to_recordset(p_more -> 'shifts') AS m (place int, zone_no int2)
      JOIN subscription AS s ON s.id = p_ids[m.place]
     WHERE r.id = s.subscriber_id AND r.zone_no <> m.zone_no AND (verdicts IS NULL OR verdicts[m.place] = 0);
    PERFORM open_successor(o) FROM jsonb_array_elements(p_more -> 'opens') AS o
      WHERE verdicts IS NULL OR verdicts[(o ->> 'place')::int] = 0;

    INSERT INTO charge_reversal (subscription_id, amount_minor, business_at_ms, period, reversal_no, currency, reference)
    SELECT p_ids[v.place], v.amount_minor, p_business_at_ms, p_periods[v.place], v.reversal_no, v.currency, v.reference
      FROM jsonb_to_recordset(p_more -> 'reversals')
           AS v (place int, amount_minor bigint, reversal_no int2, currency int2, reference text)
     WHERE verdicts IS NULL OR verdicts[v.place] = 0;
    GET DIAGNOSTICS v_reversed = ROW_COUNT;
    IF v_reversed > 0 THEN
        UPDATE charge_aside AS x SET reversed_minor = x.reversed_minor + v.amount_minor, rev = x.rev + 1
          FROM jsonb_to_recordset(p_more -> 'reversals') AS v (place int, amount_minor bigint)
         WHERE x.subscription_id = p_ids[v.place] AND x.period = p_periods[v.place]
           AND x.refunded_minor + x.reversed_minor + v.amount_minor <= x.collected_minor
           AND (verdicts IS NULL OR verdicts[v.place] = 0);
        GET DIAGNOSTICS v_booked = ROW_COUNT;
        IF v_booked <> v_reversed THEN
            RAISE EXCEPTION 'more is taken back than was collected' USING ERRCODE = 'TB004';
        END IF;
    END IF;

    INSERT INTO entitlement_grant (subscription_id, from_ms, until_ms, period, attempt_no, variant)
    SELECT p_ids[g.place], g.from_ms, g.until_ms, p_periods[g.place], p_attempt_nos[g.place], g.variant
      FROM jsonb_to_recordset(p_more -> 'grants') AS g (place int, from_ms bigint, until_ms bigint, variant int2)
     WHERE verdicts IS NULL OR verdicts[g.place] = 0;

    INSERT INTO outbox (business_at_ms, merchant_no, subscription_ids, amounts, periods, revs, events)
    SELECT p_business_at_ms, e_merchants[e.place], array_agg(p_ids[e.place]), array_agg(0::bigint),
           array_agg(p_periods[e.place]), array_agg(p_revs[e.place] + 1), array_agg(e.event)
      FROM jsonb_to_recordset(p_more -> 'events') AS e (place int, event int2)
     WHERE verdicts IS NULL OR verdicts[e.place] = 0
     GROUP BY e_merchants[e.place];

    -- A range that begins before the first partition is told from there on.
    INSERT INTO charge_note (subscription_id, business_at_ms, period, before_period, rev, kind, charge_state, rule_id)
    SELECT p_ids[r.place], p_business_at_ms, greatest(r.first, p.low_period), r.before, p_revs[r.place], 1,
           r.charge_state, p_rules[r.place]
      FROM jsonb_to_recordset(p_more -> 'passed') AS r (place int, first int, before int, charge_state int2)
      JOIN LATERAL (SELECT low_period FROM period_partition
                     WHERE high_period > r.first AND (r.before IS NULL OR low_period < r.before)
                     ORDER BY low_period LIMIT 1) AS p ON true
     WHERE verdicts IS NULL OR verdicts[r.place] = 0;
END $$;
