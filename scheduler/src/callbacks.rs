//! Messages that carriers send by themselves: authenticated, kept, and only then acknowledged. What they mean is looked at
//! afterwards ([`matching`]), by any process, and applied by the owner of the shard.
//!
//! A message whose signature is wrong is counted and forgotten. One that cannot be kept is not acknowledged, so that its
//! sender repeats it. Who repeats a message gets the same answer again, and nothing else happens.

mod matching;
mod sealed;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use billing_core::outcome::{Moved, Outcome};
use carriers::{Callback, CallbackError, CarrierDefinition, read_callback};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::HeaderMap;
use sha2::{Digest, Sha256};
use storage::fail_point::{Point, reached};
use storage::pg::{CallbackState, NewCallback, StoreError, keep_callbacks};
use storage::vault::Vault;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::link::{DbLink, RETRY_PAUSE};
pub(crate) use matching::contrary;
pub(crate) use sealed::Raw;

/// Bytes of a message that are read at most, whatever a carrier's file allows.
pub const CALLBACK_BYTES_MAX: usize = 64 * 1024;
/// Messages that wait to be kept; more are told to come again.
const WAITING_MAX: usize = 1_024;
/// Messages that are kept in one commit.
const BATCH_MAX: usize = 128;
/// A message is kept within this, or not acknowledged.
const KEEP_WITHIN: Duration = Duration::from_secs(5);
/// Messages a second that are taken from a carrier whose sender is not known: they are hints, and anybody can send them.
const HINTS_PER_S: u32 = 20;
/// Messages a second that are taken from any carrier that signs; four for each request that its rate allows, if that is
/// more.
const SIGNED_PER_S_MIN: u32 = 50;

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// It is kept (now, or since its first copy came): the carrier's own acknowledgement.
    Acknowledged {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: Box<str>,
    },
    /// No carrier of this name sends messages.
    NoSuchCarrier,
    /// More bytes than are read.
    TooLarge {
        /// Bytes that are read.
        max: usize,
    },
    /// No signature, or a wrong one.
    NotAuthentic,
    /// It is not signed, and says nothing that could be a hint.
    Unreadable,
    /// Too many at once.
    TooMany,
    /// It could not be kept: it is to be sent again.
    Unavailable,
}

impl Received {
    fn name(&self) -> &'static str {
        match self {
            Self::Acknowledged { .. } => "acknowledged",
            Self::NoSuchCarrier => "no_such_carrier",
            Self::TooLarge { .. } => "too_large",
            Self::NotAuthentic => "forged",
            Self::Unreadable => "unreadable",
            Self::TooMany => "too_many",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Takes messages, keeps them, and has them matched. One per process.
pub struct CallbackDesk {
    /// By their ids; `None` until a book was read.
    carriers: RwLock<Option<HashMap<String, Arc<Speaking>>>>,
    vault: Arc<Vault>,
    queue: mpsc::Sender<Keep>,
    kept: Notify,
}

/// A carrier that sends messages.
struct Speaking {
    carrier_no: i32,
    definition: CarrierDefinition,
    limit: DefaultDirectRateLimiter,
}

/// A message on its way into the database, and who waits for it.
struct Keep {
    message: NewCallback,
    done: oneshot::Sender<bool>,
}

impl CallbackDesk {
    /// A desk that keeps messages in the database at `url` until `stop`. Messages are matched as long, whoever took them.
    #[must_use]
    pub fn start(url: &str, vault: Arc<Vault>, stop: CancellationToken) -> Arc<Self> {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let desk = Arc::new(Self { carriers: RwLock::default(), vault, queue, kept: Notify::new() });
        tokio::spawn(keep_all(
            Arc::clone(&desk),
            DbLink::new(storage::store::Database::postgres(url), "tollbook callbacks".to_owned()),
            waiting,
        ));
        let link = DbLink::new(storage::store::Database::postgres(url), "tollbook matching".to_owned());
        tokio::spawn(matching::Matcher { desk: Arc::clone(&desk), db: link }.run(stop));
        desk
    }

    /// The carriers of the book in force, with their numbers. Those that send no messages are left out.
    pub fn set_carriers(&self, definitions: impl IntoIterator<Item = (i32, CarrierDefinition)>) {
        let speaking = definitions.into_iter().filter_map(|(carrier_no, definition)| {
            let limit = RateLimiter::direct(quota(&definition, definition.signs_callbacks()?));
            let id = definition.id.to_string();
            Some((id, Arc::new(Speaking { carrier_no, definition, limit })))
        });
        let all = speaking.collect();
        *self.carriers.write().unwrap_or_else(PoisonError::into_inner) = Some(all);
    }

    /// Takes one message of a carrier: its headers as they came, its body byte for byte. Kept when it is acknowledged.
    pub async fn receive(&self, carrier: &str, headers: &HeaderMap, body: &[u8]) -> Received {
        let received = self.take(carrier, headers, body).await;
        // What strangers write does not become a label.
        let known = if received == Received::NoSuchCarrier { "" } else { carrier };
        metrics::counter!("tollbook_callbacks_total", "carrier" => known.to_owned(), "result" => received.name())
            .increment(1);
        received
    }

    async fn take(&self, carrier: &str, headers: &HeaderMap, body: &[u8]) -> Received {
        let speaking = match &*self.carriers.read().unwrap_or_else(PoisonError::into_inner) {
            Some(carriers) => carriers.get(carrier).cloned(),
            None => return Received::Unavailable,
        };
        let Some(speaking) = speaking else { return Received::NoSuchCarrier };
        if body.len() > CALLBACK_BYTES_MAX {
            return Received::TooLarge { max: CALLBACK_BYTES_MAX };
        }
        let signs = speaking.definition.signs_callbacks() == Some(true);
        let (fact, state, txn) = match read_callback(&speaking.definition, headers, body) {
            Ok(callback) => {
                let txn = callback.carrier_txn_id.as_deref().map(str::to_owned);
                (fact_of(&callback), CallbackState::New, txn)
            }
            Err(CallbackError::NotAuthentic) => return Received::NotAuthentic,
            Err(CallbackError::TooLarge { max, .. }) => return Received::TooLarge { max },
            Err(CallbackError::NotOffered) => return Received::NoSuchCarrier,
            // The carrier did send it: sending it again would not make it readable.
            Err(why) if signs => {
                tracing::warn!(carrier, %why, "a carrier's message says nothing that is understood: kept, not used");
                (Sha256::digest(body).into(), CallbackState::Refused, None)
            }
            Err(_) => return Received::Unreadable,
        };
        if speaking.limit.check().is_err() {
            return Received::TooMany;
        }
        let carrier_no = speaking.carrier_no;
        let Ok((sealed, kek_version)) = Raw::of(headers, body).seal(&self.vault, carrier_no, &fact) else {
            tracing::error!(carrier, "a carrier's message could not be sealed");
            return Received::Unavailable;
        };
        let message = NewCallback {
            carrier_no,
            fact,
            authenticated: signs,
            state,
            sealed,
            kek_version,
            carrier_txn_id: txn,
        };
        let (done, kept) = oneshot::channel();
        if self.queue.try_send(Keep { message, done }).is_err() {
            return Received::Unavailable;
        }
        match (tokio::time::timeout(KEEP_WITHIN, kept).await, speaking.definition.acknowledgement()) {
            (Ok(Ok(true)), Some(ack)) => {
                Received::Acknowledged { status: ack.status, body: ack.body.clone() }
            }
            _ => Received::Unavailable,
        }
    }

    fn speaking(&self, carrier_no: i32) -> Option<Arc<Speaking>> {
        let carriers = self.carriers.read().unwrap_or_else(PoisonError::into_inner);
        carriers.as_ref()?.values().find(|speaking| speaking.carrier_no == carrier_no).cloned()
    }
}

fn quota(definition: &CarrierDefinition, signs: bool) -> Quota {
    let caps = &definition.caps;
    let per_s = u64::from(caps.rate_n) * 1_000 / u64::from(caps.rate_per_ms.max(1));
    let per_s = match signs {
        true => u32::try_from(4 * per_s).unwrap_or(u32::MAX).max(SIGNED_PER_S_MIN),
        false => HINTS_PER_S,
    };
    Quota::per_second(NonZeroU32::new(per_s).unwrap_or(NonZeroU32::MIN))
}

/// The same for two messages about the same fact. The carrier's id alone is not enough: under one id it might say two
/// things, and the second would go unseen.
fn fact_of(callback: &Callback) -> [u8; 32] {
    let moved = match callback.result.moved() {
        Moved::Yes(minor) => minor,
        Moved::No | Moved::Unknown => 0,
    };
    let mut hash = Sha256::new();
    hash.update((callback.callback_id.len() as u64).to_be_bytes());
    hash.update(callback.callback_id.as_bytes());
    hash.update(Outcome::reason(callback.result).0.to_be_bytes());
    hash.update(moved.to_be_bytes());
    hash.finalize().into()
}

/// Keeps what waits, as much as there is in one commit. Ends with the desk.
async fn keep_all(desk: Arc<CallbackDesk>, mut db: DbLink, mut waiting: mpsc::Receiver<Keep>) {
    while let Some(first) = waiting.recv().await {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        match keep(&mut db, &batch).await {
            Ok(()) => {
                for keep in batch {
                    let _ = keep.done.send(true); // who waited may be gone
                }
                desk.kept.notify_one();
            }
            // One that the database does not take is not to cost the others their answer.
            Err(StoreError::Refused(_)) if batch.len() > 1 => {
                for one in batch {
                    let kept = keep(&mut db, std::slice::from_ref(&one)).await.is_ok();
                    let _ = one.done.send(kept);
                }
                desk.kept.notify_one();
            }
            Err(error) => {
                tracing::error!(%error, messages = batch.len(), "carriers' messages could not be kept");
                drop(batch);
                // Who waits was told already; a database that is away is not asked in a loop.
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

async fn keep(db: &mut DbLink, batch: &[Keep]) -> Result<(), StoreError> {
    let messages: Vec<NewCallback> = batch.iter().map(|keep| keep.message.clone()).collect();
    let conn = db.conn().await?.postgres()?;
    reached(Point::BeforeCallbackKept);
    let kept = keep_callbacks(conn, &messages).await;
    reached(Point::AfterCallbackKept);
    let copies = db.checked(kept)?.into_iter().filter(|new| !new).count();
    metrics::counter!("tollbook_callback_copies_total").increment(copies as u64);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use billing_core::outcome::Refusal;

    use super::*;

    #[test]
    fn a_fact_is_the_message_and_what_it_says() {
        let told = Callback {
            authenticated: true,
            our_ref: None,
            carrier_txn_id: Some("c-1".into()),
            amount_minor: Some(5),
            currency: None,
            msisdn: None,
            result: Outcome::Charged { amount_minor: 5 },
            carrier_code: None,
            callback_id: "m-1".into(),
        };
        let same = Callback { carrier_code: Some("other words".into()), ..told.clone() };
        assert_eq!(fact_of(&told), fact_of(&same));
        for other in [
            Callback { callback_id: "m-2".into(), ..told.clone() },
            Callback { result: Outcome::Charged { amount_minor: 6 }, ..told.clone() },
            Callback { result: Outcome::Declined(Refusal::NoFunds), ..told.clone() },
        ] {
            assert_ne!(fact_of(&told), fact_of(&other), "{other:?}");
        }
    }
}
