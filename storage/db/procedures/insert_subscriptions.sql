-- Inserts an import batch: new subscribers with their directory rows, new subscriptions with their references, and
-- one inbox row per shard, so that the owner's wheel learns of them at once.
CREATE OR REPLACE FUNCTION insert_subscriptions(
    r_ids bigint[], r_zones int2[], r_kek_versions int2[], r_pepper_versions int2[], r_hmacs bytea[], r_salts bytea[], r_msisdns bytea[],
    s_ids bigint[], s_subscribers bigint[], s_ref_seeds bigint[], s_digests bytea[], s_dues bigint[], s_next_ats bigint[],
    s_plans int[], s_merchants int[], s_book_version int, s_anchor_days int[], s_periods int[], s_zones int2[],
    s_anchor_minutes int2[], s_currencies int2[], s_states int2[], s_next_kinds int2[], s_state_untils bigint[],
    s_consent_untils bigint[]
) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO subscriber (id, zone_no, kek_version, pepper_version, msisdn_hmac, key_salt, msisdn_ct)
    SELECT * FROM unnest(r_ids, r_zones, r_kek_versions, r_pepper_versions, r_hmacs, r_salts, r_msisdns);
    INSERT INTO msisdn_directory (subscriber_id, carrier_no, msisdn_hmac)
    SELECT r.id, (r.id >> 44)::int, r.hmac FROM unnest(r_ids, r_hmacs) AS r (id, hmac);
    INSERT INTO subscription_ref (ref_seed, subscription_id, merchant_no, digest)
    SELECT * FROM unnest(s_ref_seeds, s_ids, s_merchants, s_digests);
    INSERT INTO subscription (id, subscriber_id, ref_seed, due_minor, next_at_ms, plan_no, merchant_no, book_version,
                              anchor_day, period, zone_no, anchor_minute, currency, state, next_kind, state_until_ms, consent_until_ms, stop_at_ms)
    SELECT s.id, s.subscriber, s.ref_seed, s.due, s.next_at, s.plan, s.merchant, s_book_version, s.anchor_day, s.period,
           s.zone, s.anchor_minute, s.currency, s.state, s.next_kind, s.state_until, s.consent_until, r.stop_at_ms
      FROM unnest(s_ids, s_subscribers, s_ref_seeds, s_dues, s_next_ats, s_plans, s_merchants, s_anchor_days, s_periods,
                  s_zones, s_anchor_minutes, s_currencies, s_states, s_next_kinds, s_state_untils, s_consent_untils)
           AS s (id, subscriber, ref_seed, due, next_at, plan, merchant, anchor_day, period,
                 zone, anchor_minute, currency, state, next_kind, state_until, consent_until)
      -- A person's stop and a new subscription of theirs must not miss each other.
      JOIN (SELECT id, stop_at_ms FROM subscriber WHERE id = ANY (s_subscribers) FOR SHARE) AS r ON r.id = s.subscriber
     ORDER BY s.id;
    INSERT INTO shard_inbox (shard, kind, subscription_id, payload)
    SELECT (id >> 32)::int, 1, min(id), int8send(min(id)) || int8send(max(id)) FROM unnest(s_ids) AS s (id) GROUP BY 1;
END $$;
