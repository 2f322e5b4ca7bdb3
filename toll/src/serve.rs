//! `toll serve`: one worker process. Starts again by itself when it was fenced, drains on SIGTERM.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use carriers::FileSecrets;
use scheduler::{CallbackDesk, Worker, WorkerEnd};
use storage::vault::Vault;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::assemble::Assembly;
use crate::book_files::LoadedBook;
use crate::book_store::{self, BookPlace};
use crate::cli::Global;
use crate::database::Database;
use crate::home::Home;

const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// What `toll serve` takes besides the global options.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Where the API listens (metrics, health, history); the book's engine.toml says where by default
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where carriers send their own messages (POST /callbacks/CARRIER), on a listener of its own; put a proxy that ends
    /// TLS before it. Without it no messages are taken
    #[arg(long, value_name = "ADDRESS:PORT")]
    callback_listen: Option<SocketAddr>,
    /// Reach a carrier at another base URL than its file says (for simulators), as ID=URL; may be repeated
    #[arg(long = "carrier-base", value_name = "ID=URL", value_parser = parse_base)]
    carrier_bases: Vec<(String, String)>,
}

fn parse_base(text: &str) -> Result<(String, String), String> {
    let (id, url) = text.split_once('=').ok_or("expected ID=URL, such as medina=http://127.0.0.1:4020")?;
    Ok((id.to_owned(), url.to_owned()))
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn serve(global: &Global, args: ServeArgs) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let home = Home::open(&global.data)?;
    let callbacks = match args.callback_listen {
        Some(address) => {
            let bound = TcpListener::bind(address).await;
            Some(bound.with_context(|| format!("cannot listen for callbacks on {address}"))?)
        }
        None => None,
    };
    let listens = Listens { api: args.listen, callbacks };
    let database = Database::open(&home, global.database.as_deref()).await?;
    let served =
        run(global, listens, args.carrier_bases.into_iter().collect(), &home, &database, stop, |_| ()).await;
    database.close().await;
    served
}

/// Where a process listens.
pub(crate) struct Listens {
    /// The API; `None`: where the book says.
    pub(crate) api: Option<SocketAddr>,
    /// Carriers' own messages; `None`: they are not taken.
    pub(crate) callbacks: Option<TcpListener>,
}

/// Runs workers on an open database until `stop`; `started` is told where the API listens.
pub(crate) async fn run(
    global: &Global,
    listens: Listens,
    bases: HashMap<String, String>,
    home: &Home,
    database: &Database,
    stop: CancellationToken,
    started: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let secrets = FileSecrets { dir: home.secrets() };
    let Some(loaded) = first_look(global, &secrets, database, &stop).await? else { return Ok(()) };
    let vault = Arc::new(Vault::open_or_create(&home.secrets())?);
    let spool = home.take_spool()?;
    let address = listens.api.unwrap_or(loaded.book.engine.listen);
    api::require_loopback(address)?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let endpoint = format!("http://{address}");
    let (place, url) = (BookPlace { config: global.config.clone(), secrets }, database.url.clone());
    let api_stop = CancellationToken::new();
    let desk = CallbackDesk::start(&url, Arc::clone(&vault), api_stop.clone());
    if listens.callbacks.is_none() && loaded.carriers.iter().any(|one| one.signs_callbacks().is_some()) {
        tracing::warn!("a carrier of the book sends messages, and none are taken: see --callback-listen");
    }
    let assembly = Assembly::open(&loaded, (place, bases), url, vault, &spool, endpoint, Arc::clone(&desk))?;
    drop(loaded);
    let state = Arc::new(api::State::new(api::telemetry::install_metrics()?));
    let api_server =
        tokio::spawn(api::serve(listener, Arc::clone(&state), api_stop.clone().cancelled_owned()));
    let callback_server = match listens.callbacks {
        Some(listener) => {
            let at = listener.local_addr()?;
            tracing::info!(callbacks = %at, "taking carriers' messages");
            let options = api::ServeOptions::default();
            Some(tokio::spawn(api::serve_callbacks(listener, desk, options, stop.clone().cancelled_owned())))
        }
        None => None,
    };
    tracing::info!(api = %format!("http://{address}"), spool = %spool.dir.display(), "serving");
    started(address);
    let ended = keep_working(&assembly, database, &state, &stop).await;
    state.set_worker(None);
    api_stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(2), api_server).await;
    if let Some(server) = callback_server {
        let _ = tokio::time::timeout(Duration::from_secs(2), server).await;
    }
    ended
}

/// The book in force, once the database can be reached; `None` when asked to stop before.
async fn first_look(
    global: &Global,
    secrets: &FileSecrets,
    database: &Database,
    stop: &CancellationToken,
) -> anyhow::Result<Option<LoadedBook>> {
    while !stop.is_cancelled() {
        let looked = async {
            let mut conn = database.migrated().await?;
            book_store::in_force(&mut conn, &global.config, secrets).await
        };
        match looked.await {
            Ok((loaded, names)) => {
                book_store::warn_of_other_files(&global.config, &loaded, names.book_version);
                return Ok(Some(loaded));
            }
            Err(error) if is_passing(&error) => {
                tracing::error!("cannot read the book in force: {error:#}");
                pause(stop).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// One worker after the other: a fenced one dropped everything, the next is a new incarnation.
async fn keep_working(
    assembly: &Assembly,
    database: &Database,
    state: &api::State,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        let worker = match start_worker(assembly, database).await {
            Ok(worker) => worker,
            Err(error) if is_passing(&error) => {
                tracing::error!("cannot start working: {error:#}");
                pause(stop).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        state.set_worker(Some(worker.shared() as Arc<dyn api::Running>));
        let end = worker.run(stop.clone()).await;
        state.set_worker(None);
        match end {
            WorkerEnd::Stopped => return Ok(()),
            WorkerEnd::Renewed => {
                tracing::info!("drained, starting with the new book");
                continue;
            }
            WorkerEnd::Fenced(why) => {
                tracing::warn!(why, "fenced: everything dropped, starting as a new incarnation")
            }
            WorkerEnd::Died(why) => tracing::error!(why, "the worker died: starting as a new incarnation"),
        }
        pause(stop).await;
    }
    Ok(())
}

async fn start_worker(assembly: &Assembly, database: &Database) -> anyhow::Result<Worker> {
    let mut conn = database.migrated().await?;
    let parts = assembly.parts(&mut conn).await?;
    Ok(Worker::start(parts).await?)
}

/// The database being away passes; a wrong book or a broken spool does not.
fn is_passing(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<storage::pg::StoreError>().is_some_and(storage::pg::StoreError::is_transient)
            || matches!(
                cause.downcast_ref::<sqlx::Error>(),
                Some(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut)
            )
    })
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(RESTART_PAUSE) => {}
    }
}

/// A token that SIGTERM or SIGINT cancels.
pub(crate) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}
