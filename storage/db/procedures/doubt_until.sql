-- Whoever did not hand in its spool may have begun something of this shard until then: the old server was gone before anybody
-- found the failover, and clocks differ by less than five seconds. Null where every spool was handed in.
CREATE OR REPLACE FUNCTION doubt_until(p_shard int) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT max(q.found_at) + interval '5 seconds'
      FROM shard_quarantine s JOIN quarantine q ON q.id = s.quarantine_id
     WHERE s.shard = p_shard AND s.how = 'all'
$$;
