-- Counts a batch's amounts against their subscribers' caps, in the commit of the intents. One row per subscriber.
CREATE OR REPLACE FUNCTION reserve_usage(
    p_amounts bigint[], p_currencies int2[], p_cap_days int[], verdicts int2[],
    c_places int[], c_subscribers bigint[], c_weeks int[], c_months int[]
) RETURNS void
LANGUAGE sql SET search_path = public, pg_temp AS $$
    INSERT INTO subscriber_usage AS u (subscriber_id, currency, day, day_minor, day_requests, week, week_minor,
                                       week_requests, month, month_minor, month_requests)
    SELECT c.subscriber, p_currencies[c.place], p_cap_days[c.place], p_amounts[c.place], 1, c.week, p_amounts[c.place], 1,
           c.month, p_amounts[c.place], 1
      FROM unnest(c_places, c_subscribers, c_weeks, c_months) AS c (place, subscriber, week, month)
     WHERE verdicts IS NULL OR verdicts[c.place] = 0
     ORDER BY c.subscriber, p_currencies[c.place]
        ON CONFLICT (subscriber_id, scope, currency) DO UPDATE
       SET day = greatest(u.day, EXCLUDED.day), week = greatest(u.week, EXCLUDED.week), month = greatest(u.month, EXCLUDED.month),
           day_minor = EXCLUDED.day_minor + CASE WHEN u.day >= EXCLUDED.day THEN u.day_minor ELSE 0 END,
           day_requests = 1 + CASE WHEN u.day >= EXCLUDED.day THEN u.day_requests ELSE 0 END,
           week_minor = EXCLUDED.week_minor + CASE WHEN u.week >= EXCLUDED.week THEN u.week_minor ELSE 0 END,
           week_requests = 1 + CASE WHEN u.week >= EXCLUDED.week THEN u.week_requests ELSE 0 END,
           month_minor = EXCLUDED.month_minor + CASE WHEN u.month >= EXCLUDED.month THEN u.month_minor ELSE 0 END,
           month_requests = 1 + CASE WHEN u.month >= EXCLUDED.month THEN u.month_requests ELSE 0 END
$$;
