-- Compares the server with what its own guard row says and with what the asking process remembers (0: nothing). Opens a
-- quarantine, once per finding, in the same commit; `opened` is its id then. Refuses (TB005) another server's copy.
-- After a crash the log may end before a page that was flushed with the beginning of a record: 64 KiB are no step back.
CREATE OR REPLACE FUNCTION check_guard(
    p_system bigint, p_timeline int, p_counter bigint, p_lsn bigint, p_margin_ms bigint, p_wait_ms bigint,
    OUT system_identifier bigint, OUT timeline int, OUT counter bigint, OUT lsn bigint, OUT opened bigint
) LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    g     database_guard;
    v_why text;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'this server is a standby: money decisions read the primary only' USING ERRCODE = '57P03';
    END IF;
    check_guard.system_identifier := (pg_control_system()).system_identifier;
    check_guard.timeline := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int;
    check_guard.lsn := pg_current_wal_flush_lsn() - '0/0'::pg_lsn;
    SELECT * INTO STRICT g FROM database_guard;
    -- A data folder may meet a new database, or one that was moved to another server with everybody's knowledge.
    IF g.system_identifier <> check_guard.system_identifier
       OR p_system NOT IN (0, check_guard.system_identifier) AND g.counter > 0
          AND NOT EXISTS (SELECT FROM quarantine q WHERE q.from_system = p_system) THEN
        RAISE EXCEPTION 'this is another database server: its system identifier is %, the database was kept on %; if it was moved on purpose (dump and restore, pg_upgrade), say so with: toll ops quarantine adopt',
            check_guard.system_identifier, CASE WHEN g.system_identifier <> check_guard.system_identifier THEN g.system_identifier ELSE p_system END
            USING ERRCODE = 'TB005';
    END IF;
    check_guard.counter := g.counter;
    IF g.timeline = check_guard.timeline
       AND (p_system <> check_guard.system_identifier
            OR NOT (p_timeline > check_guard.timeline
                OR p_timeline = check_guard.timeline AND (p_counter > g.counter OR p_lsn > check_guard.lsn + 65536))) THEN
        RETURN;
    END IF;
    -- One finding at a time; whoever waited here sees what the first one wrote.
    SELECT * INTO STRICT g FROM database_guard FOR UPDATE;
    IF g.timeline <> check_guard.timeline THEN
        v_why := format('the server is on timeline %s, and was on %s when a worker last wrote: a standby was promoted',
            check_guard.timeline, g.timeline);
        opened := open_quarantine(v_why, greatest(p_counter, g.counter), p_lsn, g.timeline, check_guard.timeline, p_margin_ms, p_wait_ms);
    ELSIF NOT EXISTS (SELECT FROM quarantine q
                       WHERE q.to_timeline = check_guard.timeline AND q.from_timeline = p_timeline
                         AND p_counter < q.seen_counter + 1000000) THEN
        v_why := CASE WHEN p_timeline > check_guard.timeline
                      THEN format('the server is on timeline %s, and a worker has written on %s: it went back', check_guard.timeline, p_timeline)
                      ELSE format('the server went back on timeline %s: an old copy was restored', check_guard.timeline) END;
        opened := open_quarantine(v_why, greatest(p_counter, g.counter), p_lsn, p_timeline, check_guard.timeline, p_margin_ms, p_wait_ms);
    END IF;
    check_guard.counter := (SELECT d.counter FROM database_guard d);
END $$;
