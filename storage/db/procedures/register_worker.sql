-- A process takes a slot: a given one whose former process is proven dead (it held the same spool's lock on the
-- same machine), or a new one. Whoever was there before is fenced, its shards are freed. Returns slot and epoch.
CREATE OR REPLACE FUNCTION register_worker(
    p_slot int, p_incarnation bigint, p_host text, p_boot_id text, p_spool text, p_endpoint text,
    OUT slot int, OUT epoch int
) LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7130002);
    register_worker.slot := coalesce(p_slot, (SELECT coalesce(max(w.slot), 0) + 1 FROM worker w));
    PERFORM FROM worker_lease l WHERE l.slot = register_worker.slot FOR UPDATE;
    UPDATE worker w SET epoch = w.epoch + 1, incarnation = p_incarnation
     WHERE w.slot = register_worker.slot RETURNING w.epoch INTO register_worker.epoch;
    IF NOT FOUND THEN
        register_worker.epoch := 1;
        INSERT INTO worker (slot, incarnation, epoch) VALUES (register_worker.slot, p_incarnation, 1);
    END IF;
    INSERT INTO worker_lease AS l (slot, incarnation, epoch, renewals)
    VALUES (register_worker.slot, p_incarnation, register_worker.epoch, 0)
        ON CONFLICT ON CONSTRAINT worker_lease_pkey DO UPDATE
       SET incarnation = EXCLUDED.incarnation, epoch = EXCLUDED.epoch, renewals = l.renewals + 1;
    UPDATE worker_incarnation i SET fenced_at = now()
     WHERE i.slot = register_worker.slot AND i.fenced_at IS NULL;
    UPDATE shard_owner o SET slot = NULL WHERE o.slot = register_worker.slot;
    INSERT INTO worker_incarnation (incarnation, slot, epoch, host, boot_id, spool, endpoint)
    VALUES (p_incarnation, register_worker.slot, register_worker.epoch, p_host, p_boot_id, p_spool, p_endpoint);
END $$;
