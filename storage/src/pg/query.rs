//! Reading for people: `explain`, `charge list` and `show`, `sub show`, `status`, `doctor`. Never on the hot path.

mod attempts;
mod charges;
mod server;
mod status;
mod subscriptions;

pub use attempts::{
    AttemptRow, CaseRow, GrantRow, IncarnationRow, NoteRow, TransferRow, attempts, book_files, cases, grants,
    incarnations, notes, transfers,
};
pub use charges::{
    Backwards, CHARGE_KEYS_MAX, ChargeKey, ChargeRow, KeyRange, LastAttempt, LastNote, OpenRow,
    charges_by_key, charges_of, open_attempts,
};
pub use server::{BusinessNow, ServerFacts, business_now, reading, server_facts};
pub use status::{
    CaseCount, DayRow, OpenSum, StateCount, case_counts, charges_since, intents_without_answer, open_sums,
    subscription_counts, zones,
};
pub use subscriptions::{
    GrantOf, SubscriptionPlace, by_msisdn_hmac, by_ref_seed, by_reference, carrier_numbers, grants_of,
    subscription_place,
};
