//! Puts a worker together: book, database, keys, spool.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use carriers::{Adapter, HttpAdapter};
use scheduler::{
    BreakerSettings, CallbackDesk, Catalog, SystemClock, WorkerCarrier, WorkerParts, WorkerSettings,
};
use sqlx::postgres::PgConnection;
use storage::guard::GuardMemory;
use storage::history::{FjallHistory, FjallHistoryOptions, HistoryStore};
use storage::pg::{WorkerIdentity, check_keys};
use storage::spool::{SentLog, SentLogOptions};
use storage::store::Database;
use storage::vault::Vault;

use crate::book_files::LoadedBook;
use crate::book_store::{self, BookPlace};
use crate::home::{Spool, boot_id, host, new_incarnation};

const MIB: u64 = 1024 * 1024;

/// What outlives a worker that was fenced: the next one of this process uses it again.
pub(crate) struct Assembly {
    pub(crate) place: BookPlace,
    pub(crate) bases: HashMap<String, String>,
    pub(crate) database_url: String,
    pub(crate) vault: Arc<Vault>,
    pub(crate) history: Arc<dyn HistoryStore>,
    pub(crate) sent_log: Arc<SentLog>,
    pub(crate) guard_memory: Arc<GuardMemory>,
    pub(crate) identity: WorkerIdentity,
    pub(crate) desk: Arc<CallbackDesk>,
}

impl Assembly {
    /// Opens the spool and makes everything that a worker needs but its registration.
    pub(crate) fn open(
        loaded: &LoadedBook,
        (place, bases): (BookPlace, HashMap<String, String>),
        database_url: String,
        vault: Arc<Vault>,
        spool: &Spool,
        endpoint: String,
        desk: Arc<CallbackDesk>,
    ) -> anyhow::Result<Self> {
        if let Some(unknown) =
            bases.keys().find(|id| !loaded.carriers.iter().any(|c| c.id.as_ref() == id.as_str()))
        {
            bail!("--carrier-base {unknown}: the book has no such carrier");
        }
        let engine = &loaded.book.engine;
        let options = FjallHistoryOptions {
            quota_bytes: engine.history_quota_mib * MIB,
            min_free_bytes: engine.history_min_free_mib * MIB,
            ..FjallHistoryOptions::default()
        };
        let history = FjallHistory::open(&spool.history(), options)
            .with_context(|| format!("cannot open the history in {}", spool.history().display()))?;
        let sent_log = SentLog::open(&spool.sent(), SentLogOptions::default())
            .with_context(|| format!("cannot open the sent log in {}", spool.sent().display()))?;
        let guard_memory = Arc::new(GuardMemory::File(spool.dir.join("database-guard")));
        // A spool of another boot may lack its last lines, and one that was made anew under the same path all of them.
        let boot = format!("{} {}", boot_id(), spool.id()?);
        let spool = spool.dir.display().to_string();
        Ok(Self {
            guard_memory,
            place,
            bases,
            database_url,
            vault,
            history: Arc::new(history),
            sent_log: Arc::new(sent_log),
            identity: WorkerIdentity { host: host(), boot_id: boot, spool, endpoint },
            desk,
        })
    }

    /// The parts of one worker: a new incarnation each time.
    pub(crate) async fn parts(&self, conn: &mut PgConnection) -> anyhow::Result<WorkerParts> {
        check_keys(conn, &self.vault).await?;
        let (loaded, names) = book_store::in_force(conn, &self.place.config, &self.place.secrets).await?;
        let mut carriers = Vec::new();
        for definition in &loaded.carriers {
            let Some((carrier_no, ..)) = names.carriers.get(definition.id.as_ref()) else { continue };
            let base = self.bases.get(definition.id.as_ref()).map(String::as_str);
            let adapter = || {
                let made = HttpAdapter::new(definition, base);
                made.with_context(|| format!("carrier {}", definition.id))
            };
            carriers.push(WorkerCarrier {
                carrier_no: *carrier_no,
                id: definition.id.to_string(),
                adapter: Arc::new(adapter()?) as Arc<dyn Adapter>,
                asker: Arc::new(adapter()?) as Arc<dyn Adapter>,
                proof: definition.proof.clone(),
                breaker: BreakerSettings {
                    share_percent: u32::from(definition.breaker.unknown_share_percent),
                    window_ms: i64::from(definition.breaker.window_ms),
                    open_for_ms: i64::from(definition.breaker.open_for_ms),
                    ..BreakerSettings::default()
                },
                dictionary: definition.dictionary(),
            });
        }
        let slot = former_slot(conn, &self.identity).await?;
        let read_version = book_store::reader(&loaded, self.place.secrets.clone());
        let settings = WorkerSettings::from(&loaded.book.engine);
        let LoadedBook { book, carriers: definitions, .. } = loaded;
        let number = |id: &str| names.carriers.get(id).map(|(carrier_no, ..)| *carrier_no);
        self.desk.set_carriers(definitions.into_iter().filter_map(|one| Some((number(&one.id)?, one))));
        Ok(WorkerParts {
            database: Database::postgres(&self.database_url),
            clock: Arc::new(SystemClock::default()),
            hold: None,
            settings,
            catalog: Catalog::new(&book.plans, names)?,
            read_version,
            carriers,
            vault: Arc::clone(&self.vault),
            history: Arc::clone(&self.history),
            sent_log: Arc::clone(&self.sent_log),
            identity: self.identity.clone(),
            guard_memory: Arc::clone(&self.guard_memory),
            slot,
            incarnation: new_incarnation()?,
        })
    }
}

/// The slot that this spool's former process had. We hold the spool's lock, so that process is dead.
async fn former_slot(conn: &mut PgConnection, who: &WorkerIdentity) -> anyhow::Result<Option<i32>> {
    let slot = sqlx::query_scalar(
        "SELECT slot FROM worker_incarnation WHERE host = $1 AND spool = $2 ORDER BY started_at DESC LIMIT 1",
    );
    Ok(slot.bind(&who.host).bind(&who.spool).fetch_optional(conn).await?)
}
