-- Money that carriers took back by themselves, as their statements say.
CREATE TABLE charge_reversal (
    subscription_id bigint NOT NULL,
    amount_minor    bigint NOT NULL CHECK (amount_minor > 0),
    at              timestamptz NOT NULL DEFAULT now(),
    business_at_ms  bigint NOT NULL,
    period          int  NOT NULL,
    reversal_no     int2 NOT NULL CHECK (reversal_no > 0),
    currency        int2 NOT NULL,
    reference       text NOT NULL CHECK (length(reference) BETWEEN 1 AND 64),
    PRIMARY KEY (subscription_id, period, reversal_no),
    UNIQUE (subscription_id, reference)
);
COMMENT ON TABLE charge_reversal IS 'what carriers took back; the reference is the carrier''s own. Its transfer and what it revokes have the attempt number -reversal_no';
CREATE INDEX charge_reversal_reference ON charge_reversal (reference);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON charge_reversal FOR EACH ROW EXECUTE FUNCTION refuse_change();
