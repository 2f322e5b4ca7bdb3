-- Creates the weekly partitions that cover the business days [from_day, to_day] (days since 2000-01-01) and
-- returns how many weeks were new. Called ahead of time and on demand, never inside a batch. A partition is made apart and
-- then attached: that locks out no batch, where PARTITION OF would wait for all and could wait for one that waits for it.
-- Analyzed when it has doubled, not with each tenth: what is asked of these tables goes by their keys.
CREATE OR REPLACE FUNCTION ensure_partitions(p_from_day int, p_to_day int) RETURNS int
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    week  int;
    low   int;
    high  int;
    base  text;
    part  text;
    added int := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7130001);
    FOR week IN p_from_day / 7 .. p_to_day / 7 LOOP
        low := week * 7 * 2048;
        high := (week + 1) * 7 * 2048;
        CONTINUE WHEN EXISTS (SELECT FROM period_partition WHERE low_period = low);
        FOREACH base IN ARRAY ARRAY['attempt_intent', 'attempt_outcome', 'charge_note', 'transfer', 'entitlement_grant'] LOOP
            part := base || '_w' || to_char(date '2000-01-01' + week * 7, 'YYYYMMDD');
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) '
                'WITH (autovacuum_analyze_scale_factor = 1, autovacuum_analyze_threshold = 100000)', part, base);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', base, part, low, high);
        END LOOP;
        INSERT INTO period_partition VALUES (low, high);
        added := added + 1;
    END LOOP;
    RETURN added;
END $$;
