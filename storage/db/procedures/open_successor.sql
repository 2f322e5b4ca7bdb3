-- Opens the subscription that follows one which moves to another carrier, in the commit that closes that one: both or
-- neither. `o` holds its row, and the subscriber's in case the line is new to the carrier.
CREATE OR REPLACE FUNCTION open_successor(o jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_id         bigint := (o ->> 'id')::bigint;
    v_hmac       bytea := decode(o ->> 'msisdn_hmac', 'hex');
    v_subscriber bigint;
    v_lines      bigint[];
BEGIN
    -- As imports into this shard do: a line gets one subscriber.
    PERFORM FROM shard_counter WHERE shard = (v_id >> 32)::int FOR UPDATE;
    SELECT subscriber_id INTO v_subscriber FROM msisdn_directory
     WHERE msisdn_hmac = v_hmac AND carrier_no = (v_id >> 44)::int AND valid_to IS NULL;
    v_lines := CASE WHEN v_subscriber IS NULL THEN ARRAY[(o ->> 'subscriber_id')::bigint] ELSE '{}' END;
    v_subscriber := coalesce(v_subscriber, v_lines[1]);
    PERFORM insert_subscriptions(
        v_lines,
        ARRAY(SELECT (o ->> 'zone_no')::int2 FROM unnest(v_lines)),
        ARRAY(SELECT (o ->> 'kek_version')::int2 FROM unnest(v_lines)),
        ARRAY(SELECT 1::int2 FROM unnest(v_lines)),
        ARRAY(SELECT v_hmac FROM unnest(v_lines)),
        ARRAY(SELECT decode(o ->> 'key_salt', 'hex') FROM unnest(v_lines)),
        ARRAY(SELECT decode(o ->> 'msisdn_ct', 'hex') FROM unnest(v_lines)),
        ARRAY[v_id], ARRAY[v_subscriber], ARRAY[(o ->> 'ref_seed')::bigint], ARRAY[decode(o ->> 'digest', 'hex')],
        ARRAY[(o ->> 'due_minor')::bigint], ARRAY[(o ->> 'next_at_ms')::bigint], ARRAY[(o ->> 'plan_no')::int],
        ARRAY[(o ->> 'merchant_no')::int], (o ->> 'book_version')::int, ARRAY[(o ->> 'anchor_day')::int],
        ARRAY[(o ->> 'period')::int], ARRAY[(o ->> 'zone_no')::int2], ARRAY[(o ->> 'anchor_minute')::int2],
        ARRAY[(o ->> 'currency')::int2], ARRAY[(o ->> 'state')::int2], ARRAY[(o ->> 'next_kind')::int2],
        ARRAY[NULL::bigint], ARRAY[(o ->> 'consent_until_ms')::bigint]);
    UPDATE subscription
       SET anchor_done = (o ->> 'anchor_done')::int, paid_until_ms = (o ->> 'paid_until_ms')::bigint
     WHERE id = v_id;
END $$;
