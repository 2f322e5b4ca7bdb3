-- Statistics of tables that are read by key only: taken when as many rows changed as there are, not with each tenth. At
-- full speed the samples took several per cent of the server's processor time.
ALTER TABLE subscription SET (autovacuum_analyze_scale_factor = 1, autovacuum_analyze_threshold = 1000000);
ALTER TABLE outbox SET (autovacuum_analyze_scale_factor = 1, autovacuum_analyze_threshold = 100000);
DO $$
DECLARE
    part text;
BEGIN
    FOR part IN SELECT i.inhrelid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE c.relkind = 'r' AND i.inhparent IN ('attempt_intent'::regclass, 'attempt_outcome'::regclass,
                       'charge_note'::regclass, 'transfer'::regclass, 'entitlement_grant'::regclass) LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_analyze_scale_factor = 1, autovacuum_analyze_threshold = 100000)', part);
    END LOOP;
END $$;
