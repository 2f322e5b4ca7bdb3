//! **Decides.** Pure functions over money, zones, schedules, outcomes and states: no clock, no randomness, no
//! I/O. `now` and every seed come in as arguments; what comes out names the rule that decided.
//!
//! # Glossary: one meaning each
//!
//! | word | meaning |
//! |---|---|
//! | **subscriber** | one line at one carrier, paid from by a person; the MSISDN is an encrypted attribute, never a key |
//! | **carrier** | the network that collects the money |
//! | **merchant → service → plan** | who sells → the brand → what is charged |
//! | **price point** | an amount in a currency that the carrier accepts |
//! | **ladder**, **step** | the step-down: smaller amounts to try when the full one is refused for lack of funds |
//! | **subscription** | one subscriber on one plan |
//! | **period** | what one charge pays for, named by its local start ([`period`]) |
//! | **charge** | what is due for one period; its key is (subscription, period), so it cannot exist twice |
//! | **attempt** | one request that can move money; key (subscription, period, attempt_no) |
//! | **exchange** | one conversation inside an attempt or beside it; lives in the history only |
//! | **round** | one visit of the dunning schedule; it may try several steps of the ladder |
//! | **outcome** | what the carrier said, in our closed list ([`outcome`]); it says whether money moved |
//! | **decision** | what we do next, with the rule that decided ([`mod@decide`], [`reason`]) |
//! | **dunning schedule** | when to try again, per class of refusal ([`plan`]) |
//! | **charging window** | local hours in which charging is allowed ([`schedule`]) |
//! | **deferral** | moving a charge to a better moment without using an attempt |
//! | **grace / hold / suspended** | access kept while collecting / access off while collecting / collecting stopped |
//! | **unknown / in review** | money may have moved; blocks until there is evidence / only people can settle it |
//! | **our_ref / carrier_txn_id** | our key on the wire / the carrier's own id ([`ids`]) |
//! | **shard, worker, epoch, lane** | a fixed slice of one carrier's subscribers / a process that owns shards / what fences its past / one carrier's queue in a worker |
//! | **business time / machine time** | due, windows, dunning, deadlines: an argument / leases, timeouts |
//! | **book** | the TOML files that say what is sold, when it is charged and how each carrier is spoken to ([`book`]) |
//!
//! Read in this order: [`outcome`], [`states`], [`mod@triage`], [`mod@decide`]. [`mod@preview`] plays them for one
//! subscription.

pub mod outcome;
pub mod states;

pub mod triage;

pub mod decide;

pub mod reason;
pub mod resolve;
pub mod subscription;

pub mod calendar;
pub mod entitlement;
pub mod ledger;
pub mod plan;
pub mod schedule;
pub mod split;

pub mod period;
pub mod zone;

pub mod ids;
pub mod money;

pub mod book;

pub mod preview;
