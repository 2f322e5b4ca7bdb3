-- Holds every shard, from this commit on, until what was sent in the window is known; the caller holds the guard row's lock.
-- Ids that the lost commits may have handed out are not handed out a second time.
CREATE OR REPLACE FUNCTION open_quarantine(
    p_why text, p_seen_counter bigint, p_seen_lsn bigint, p_from_timeline int, p_to_timeline int, p_margin_ms bigint,
    p_wait_ms bigint
) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_id   bigint;
    v_from timestamptz;
BEGIN
    SELECT least(touched_at, now()) - p_margin_ms * interval '1 millisecond' INTO STRICT v_from FROM database_guard;
    INSERT INTO quarantine (window_from, deadline_at, seen_counter, seen_lsn, from_system, from_timeline, to_timeline, why)
    SELECT v_from, now() + p_wait_ms * interval '1 millisecond', p_seen_counter, p_seen_lsn, d.system_identifier, p_from_timeline,
           p_to_timeline, p_why
      FROM database_guard d
    RETURNING id INTO v_id;
    INSERT INTO quarantine_spool (quarantine_id, host, spool, boot_id)
    SELECT DISTINCT v_id, host, spool, boot_id FROM worker_incarnation WHERE fenced_at IS NULL OR fenced_at >= v_from;
    UPDATE shard_owner SET held = 1;
    INSERT INTO shard_quarantine (quarantine_id, shard) SELECT v_id, shard FROM shard_owner;
    UPDATE shard_counter SET next_subscriber = next_subscriber + 1000000, next_subscription = next_subscription + 1000000;
    -- Not the numbers of carriers, plans and zones: those are parts of other numbers, or too narrow.
    PERFORM setval(s.name, nextval(s.name) + 1000000)
       FROM (SELECT pg_get_serial_sequence(t.name, t.id)::regclass AS name
               FROM (VALUES ('shard_inbox', 'id'), ('outbox', 'id'), ('case_file', 'id'), ('callback_inbox', 'id'),
                            ('decision_proposal', 'id'), ('carrier_file', 'id'), ('carrier_file_row', 'id'),
                            ('book_version', 'version')) AS t (name, id)) AS s;
    UPDATE database_guard
       SET system_identifier = (SELECT c.system_identifier FROM pg_control_system() c), timeline = p_to_timeline,
           counter = p_seen_counter + 1000000, touched_at = now();
    RETURN v_id;
END $$;
