-- Reserves dense sequence numbers per shard for an import batch: returns the first of each block.
CREATE OR REPLACE FUNCTION allocate_ids(p_shards int[], p_subscribers int[], p_subscriptions int[])
RETURNS TABLE (shard int, first_subscriber bigint, first_subscription bigint)
LANGUAGE sql SET search_path = public, pg_temp AS $$
    UPDATE shard_counter c
       SET next_subscriber = c.next_subscriber + a.subscribers, next_subscription = c.next_subscription + a.subscriptions
      FROM (SELECT * FROM unnest(p_shards, p_subscribers, p_subscriptions) AS u (shard, subscribers, subscriptions)
             ORDER BY 1) AS a
     WHERE c.shard = a.shard
    RETURNING c.shard, c.next_subscriber - a.subscribers, c.next_subscription - a.subscriptions
$$;
