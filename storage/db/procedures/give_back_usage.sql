-- Gives back what attempts had reserved in subscriber_usage and what is proven not to be collected: only where a counter
-- still counts the stretch of the intent (counters only move on, so it does when it is not past the intent's day). The
-- arrays from u_places on are by attempt; u_requests: 1 where not even a request was made.
CREATE OR REPLACE FUNCTION give_back_usage(
    p_ids bigint[], p_periods int[], verdicts int2[],
    u_places int[], u_subscribers bigint[], u_attempt_nos int2[], u_kept bigint[], u_requests int[]
) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    -- In one sequence, as begin_attempts takes them.
    PERFORM FROM subscriber_usage WHERE subscriber_id = ANY (u_subscribers)
      ORDER BY subscriber_id, scope, currency FOR UPDATE;
    UPDATE subscriber_usage AS u
       SET day_minor = greatest(u.day_minor - g.day_minor, 0), day_requests = greatest(u.day_requests - g.day_requests, 0),
           week_minor = greatest(u.week_minor - g.week_minor, 0), week_requests = greatest(u.week_requests - g.week_requests, 0),
           month_minor = greatest(u.month_minor - g.month_minor, 0),
           month_requests = greatest(u.month_requests - g.month_requests, 0)
      FROM (SELECT o.subscriber_id, o.currency,
                   coalesce(sum(c.minor) FILTER (WHERE c.cap_day >= o.day), 0)::bigint AS day_minor,
                   coalesce(sum(c.minor) FILTER (WHERE c.cap_day >= o.week), 0)::bigint AS week_minor,
                   coalesce(sum(c.minor) FILTER (WHERE c.cap_day >= o.month), 0)::bigint AS month_minor,
                   coalesce(sum(c.requests) FILTER (WHERE c.cap_day >= o.day), 0)::int AS day_requests,
                   coalesce(sum(c.requests) FILTER (WHERE c.cap_day >= o.week), 0)::int AS week_requests,
                   coalesce(sum(c.requests) FILTER (WHERE c.cap_day >= o.month), 0)::int AS month_requests
              FROM (SELECT a.subscriber, i.currency, i.cap_day, i.amount_minor - a.kept AS minor, a.requests
                      FROM unnest(u_places, u_subscribers, u_attempt_nos, u_kept, u_requests)
                           AS a (place, subscriber, attempt_no, kept, requests)
                      JOIN attempt_intent i ON i.subscription_id = p_ids[a.place] AND i.period = p_periods[a.place]
                                           AND i.attempt_no = a.attempt_no
                     WHERE i.cap_day <> 0 AND (verdicts IS NULL OR verdicts[a.place] = 0)) AS c
              JOIN subscriber_usage o
                ON o.subscriber_id = c.subscriber AND o.scope = 1 AND o.currency = c.currency
             GROUP BY o.subscriber_id, o.currency) AS g
     WHERE u.subscriber_id = g.subscriber_id AND u.scope = 1 AND u.currency = g.currency;
END $$;
