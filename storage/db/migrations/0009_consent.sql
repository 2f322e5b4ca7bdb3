-- Consent that is known from the sign-up on, and renewed later.
COMMENT ON COLUMN subscription.consent_until_ms IS 'from then on nobody has agreed any more: nothing is charged until it is renewed';

-- Its signature changed.
DROP FUNCTION IF EXISTS insert_subscriptions;
