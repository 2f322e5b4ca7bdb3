-- Which places of a batch of intents would pass a cap of their subscriber: its counters against the limits passed in (0:
-- none). The arrays from c_places on are by capped row; the others by row of the batch.
CREATE OR REPLACE FUNCTION over_caps(
    p_amounts bigint[], p_currencies int2[], p_cap_days int[],
    c_places int[], c_subscribers bigint[], c_weeks int[], c_months int[], c_day_minors bigint[], c_week_minors bigint[],
    c_month_minors bigint[], c_day_requests int[], c_week_requests int[], c_month_requests int[]
) RETURNS int[]
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    -- Counters of an earlier stretch count nothing; those of a later one (a row in another zone) still do.
    SELECT array_agg(c.place)
      FROM unnest(c_places, c_subscribers, c_weeks, c_months, c_day_minors, c_week_minors, c_month_minors, c_day_requests,
                  c_week_requests, c_month_requests)
           AS c (place, subscriber, week, month, day_minor, week_minor, month_minor, day_requests, week_requests,
                 month_requests)
      LEFT JOIN subscriber_usage u
             ON u.subscriber_id = c.subscriber AND u.scope = 1 AND u.currency = p_currencies[c.place]
     WHERE c.day_minor > 0 AND p_amounts[c.place] + CASE WHEN u.day >= p_cap_days[c.place] THEN u.day_minor ELSE 0 END > c.day_minor
        OR c.week_minor > 0 AND p_amounts[c.place] + CASE WHEN u.week >= c.week THEN u.week_minor ELSE 0 END > c.week_minor
        OR c.month_minor > 0 AND p_amounts[c.place] + CASE WHEN u.month >= c.month THEN u.month_minor ELSE 0 END > c.month_minor
        OR c.day_requests > 0 AND u.day >= p_cap_days[c.place] AND u.day_requests >= c.day_requests
        OR c.week_requests > 0 AND u.week >= c.week AND u.week_requests >= c.week_requests
        OR c.month_requests > 0 AND u.month >= c.month AND u.month_requests >= c.month_requests
$$;
