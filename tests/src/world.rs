//! A world of its own per test: folder, Postgres, book, carriers, engines.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use loadtest::compare::CarrierLedger;
use sqlx::postgres::PgConnection;
use storage::launcher::{LauncherOptions, PrivatePostgres};
use storage::pg::{ClockRow, connect, migrate, read_clock, set_clock};

use crate::process::{Engine, Mock, program};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// How a world starts.
pub struct WorldOptions {
    /// Shards of the carrier.
    pub slices: u32,
    /// Lease in milliseconds; the default of the product is 20 s, tests that wait for it may shorten it.
    pub lease_ttl_ms: u64,
    /// Business milliseconds per machine millisecond.
    pub scale: i32,
    /// Business time at the start.
    pub business_at: &'static str,
    /// The mock's behaviour as JSON.
    pub behaviour: &'static str,
    /// More arguments of the mock.
    pub mock_args: &'static [&'static str],
    /// More lines for engine.toml.
    pub engine_toml: &'static str,
    /// Which of the shipped carriers is played.
    pub carrier: Played,
    /// Whether everything runs as [`PLAIN_ROLE`] instead of the server's superuser.
    pub plain_role: bool,
}

/// A role without any privilege, but for the database of its name, which it owns.
pub const PLAIN_ROLE: &str = "toll_plain";

/// A shipped carrier, and how it is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Played {
    /// Answers at once.
    Medina,
    /// May say "accepted", and then sends a signed message.
    Hoshi,
}

impl Played {
    pub fn id(self) -> &'static str {
        match self {
            Self::Medina => "medina",
            Self::Hoshi => "hoshi",
        }
    }

    fn dialect(self) -> (&'static str, &'static str) {
        match self {
            Self::Medina => ("flat", "TND"),
            Self::Hoshi => ("priced", "JPY"),
        }
    }

    fn plans(self) -> &'static [&'static str] {
        match self {
            Self::Medina => &["medina-kids-daily", "medina-ringtone-once"],
            Self::Hoshi => &["hoshi-manga-daily", "hoshi-anime-monthly"],
        }
    }

    /// The beginning of its numbers, and how many digits follow.
    fn numbers(self) -> (&'static str, usize) {
        match self {
            Self::Medina => ("216", 8),
            Self::Hoshi => ("81", 10),
        }
    }
}

/// What `hoshi` and this world's engines share.
pub const SECRET: &str = "a-secret-of-the-tests";

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            slices: 8,
            lease_ttl_ms: 4_000,
            scale: 1,
            business_at: "2026-12-01T09:00:00Z",
            behaviour: "{}",
            mock_args: &[],
            engine_toml: "",
            carrier: Played::Medina,
            plain_role: false,
        }
    }
}

/// A carrier (`medina`, if nothing else is said) with its plans, Postgres and whatever a test starts.
pub struct World {
    pub dir: PathBuf,
    pub postgres: PrivatePostgres,
    /// The former primary, dead.
    lost: Option<PrivatePostgres>,
    pub mock: Mock,
    pub book: Book,
    /// Business milliseconds per machine millisecond, as it was started.
    pub scale: i32,
    pub carrier: Played,
    /// Where this world's engine takes the carrier's messages.
    pub callbacks: String,
    plain_role: bool,
    // The last field: fields are dropped in this sequence.
    _folder: Folder,
}

/// The book of a world.
pub struct Book {
    pub dir: PathBuf,
}

impl World {
    pub fn start(name: &str, options: &WorldOptions) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tollbook-{name}-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let book = Book::write(&dir, options);
        let callbacks = free_address();
        let (carrier, (dialect, currency)) = (options.carrier, options.carrier.dialect());
        let url = format!("http://{callbacks}/callbacks/{}", carrier.id());
        let mut arguments = vec!["--callback-url", &url, "--callback-secret", SECRET];
        arguments.extend(options.mock_args);
        let mock = Mock::start_with(&dir, carrier.id(), dialect, currency, options.behaviour, &arguments);
        let mut launcher = LauncherOptions::new(dir.join("postgres"), "tollbook");
        launcher.settings = vec![("max_connections".into(), "80".into())];
        let postgres = PrivatePostgres::start(launcher).unwrap();
        let world = Self {
            _folder: Folder(dir.clone()),
            dir,
            postgres,
            lost: None,
            mock,
            book,
            scale: options.scale,
            carrier,
            callbacks,
            plain_role: options.plain_role,
        };
        if options.plain_role {
            world.as_superuser(&format!("CREATE ROLE {PLAIN_ROLE} LOGIN"));
            world.as_superuser(&format!("CREATE DATABASE {PLAIN_ROLE} OWNER {PLAIN_ROLE}"));
        }
        world.write_secret("hoshi_key", SECRET);
        world.set_business(options.business_at, options.scale);
        world
    }

    pub fn url(&self) -> String {
        let url = self.postgres.url();
        if !self.plain_role {
            return url;
        }
        let (_, server) = url.split_once('@').unwrap();
        let (address, rest) = server.split_once('/').unwrap();
        let (_, place) = rest.split_once('?').unwrap();
        format!("postgres://{PLAIN_ROLE}@{address}/{PLAIN_ROLE}?{place}")
    }

    /// One statement of the server's superuser, in the database that everything runs on.
    pub fn as_superuser(&self, sql: &str) {
        let url = self.postgres.url();
        let exists = self.block(async {
            let mut conn = connect(&url, "tollbook test").await.unwrap();
            let known = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
            let known: bool = sqlx::query_scalar(known).bind(PLAIN_ROLE).fetch_one(&mut conn).await.unwrap();
            known
        });
        let url = match exists {
            true => url.replacen("/tollbook?", &format!("/{PLAIN_ROLE}?"), 1),
            false => url,
        };
        self.block(async {
            let mut conn = connect(&url, "tollbook test").await.unwrap();
            // Statements of tests, none from outside.
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
        });
    }

    /// A standby that has everything that is committed by now, and then is cut off: what is committed from now on is lost with
    /// the primary.
    pub fn standby_that_lags(&self) -> PrivatePostgres {
        let standby = self.postgres.standby(&self.dir.join("standby")).unwrap();
        standby.cut_off().unwrap();
        standby
    }

    /// The primary is gone at once, the standby is promoted and answers at the primary's address too: whoever reconnects
    /// meets it there. New processes are given its own.
    pub fn fail_over(&mut self, standby: PrivatePostgres) {
        self.postgres.kill9();
        standby.promote().unwrap();
        let socket = |of: &PrivatePostgres| of.socket_dir().join(".s.PGSQL.5432");
        let (old, new) = (socket(&self.postgres), socket(&standby));
        let _ = std::fs::remove_file(&old);
        std::os::unix::fs::symlink(new, old).unwrap();
        self.lost = Some(std::mem::replace(&mut self.postgres, standby));
    }

    fn write_secret(&self, name: &str, secret: &str) {
        use std::os::unix::fs::OpenOptionsExt;
        let dir = self.dir.join("data/secrets");
        std::fs::create_dir_all(&dir).unwrap();
        let file =
            std::fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(dir.join(name));
        std::io::Write::write_all(&mut file.unwrap(), format!("{secret}\n").as_bytes()).unwrap();
    }

    /// Runs a future on a runtime of its own: tests are plain functions.
    pub fn block<T>(&self, future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    pub async fn conn(&self) -> PgConnection {
        connect(&self.url(), "tollbook test").await.unwrap()
    }

    /// One number out of the database.
    pub fn number(&self, sql: &'static str) -> i64 {
        self.block(async { sqlx::query_scalar(sql).fetch_one(&mut self.conn().await).await.unwrap() })
    }

    /// All subscriptions.
    pub fn subscriptions(&self) -> Vec<i64> {
        let all = "SELECT id FROM subscription ORDER BY id";
        self.block(async { sqlx::query_scalar(all).fetch_all(&mut self.conn().await).await.unwrap() })
    }

    pub fn set_business(&self, at: &str, scale: i32) {
        let base_business_ms = at.parse::<Timestamp>().unwrap().as_millisecond();
        let base_machine_ms = Timestamp::now().as_millisecond();
        self.block(async {
            let mut conn = self.conn().await;
            migrate(&mut conn).await.unwrap();
            set_clock(&mut conn, ClockRow { base_machine_ms, base_business_ms, scale }).await.unwrap();
        });
    }

    /// Business time stands still from now on: nothing more falls due.
    pub fn freeze(&self) {
        self.block(async {
            let mut conn = self.conn().await;
            let now_ms = Timestamp::now().as_millisecond();
            let base_business_ms = read_clock(&mut conn).await.unwrap().business_ms(now_ms);
            set_clock(&mut conn, ClockRow { base_machine_ms: now_ms, base_business_ms, scale: 0 })
                .await
                .unwrap();
        });
    }

    /// `toll` with this world's folders and database.
    pub fn toll(&self, data: &str) -> Command {
        let mut command = Command::new(program("toll"));
        command
            .arg("--data")
            .arg(self.dir.join(data))
            .arg("--config")
            .arg(&self.book.dir)
            .arg("--database")
            .arg(self.url())
            .env("RUST_LOG", "info")
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs a `toll` command to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.toll("data").args(args).output().unwrap()
    }

    /// Puts the files of the book in force.
    pub fn apply_book(&self) -> i64 {
        let output = self.run(&["book", "apply", "--yes", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let applied: serde_json::Value = serde_json::from_str(&text).unwrap();
        applied["version"].as_i64().unwrap()
    }

    pub fn import(&self, csv: &Path) -> String {
        let output = self.run(&["sub", "import", csv.to_str().unwrap()]);
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}");
        text
    }

    /// Subscribers on a plan, all with the given start date.
    pub fn import_rows(&self, plan: &str, from: u32, rows: u32, start: &str) {
        let mut csv = String::from("msisdn,plan,reference,start\n");
        for i in from..from + rows {
            csv.push_str(&format!("{},{plan},ref-{plan}-{i},{start}\n", self.number_of(i)));
        }
        let file = self.dir.join(format!("{plan}-{from}.csv"));
        std::fs::write(&file, csv).unwrap();
        self.import(&file);
    }

    /// The number of the i-th imported line.
    pub fn number_of(&self, i: u32) -> String {
        let (prefix, digits) = self.carrier.numbers();
        format!("{prefix}{:0digits$}", 20_000_000 + i)
    }

    /// Starts a worker process that also takes the carrier's messages: one at a time.
    pub fn serve_with_callbacks(&self, name: &str) -> Engine {
        let mut command = self.toll("data");
        command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--callback-listen",
                &self.callbacks,
                "--carrier-base",
            ])
            .arg(format!("{}=http://{}", self.carrier.id(), self.mock.address));
        Engine::start(&mut command, &self.dir.join(format!("{name}.log")))
    }

    /// Starts a worker process; engines of one world share its data folder, as processes of one machine do.
    pub fn serve(&self, name: &str) -> Engine {
        let mut command = self.toll("data");
        command.args(["serve", "--listen", "127.0.0.1:0", "--carrier-base"]).arg(format!(
            "{}=http://{}",
            self.carrier.id(),
            self.mock.address
        ));
        Engine::start(&mut command, &self.dir.join(format!("{name}.log")))
    }

    /// Compares our ledger with the carrier's own; panics with the differences.
    pub fn compare(&self) -> loadtest::compare::Comparison {
        self.mock.sync();
        let ledgers =
            [CarrierLedger { carrier: self.carrier.id().to_owned(), path: self.mock.ledger.clone() }];
        let comparison =
            self.block(async { loadtest::compare::compare(&mut self.conn().await, &ledgers).await.unwrap() });
        assert!(comparison.agrees(), "our ledger and the carrier's differ: {comparison:#?}");
        comparison
    }
}

/// Removes the folder when everything in it has ended; keeps it when the test failed.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the world of this test is kept in {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

impl Book {
    fn write(dir: &Path, options: &WorldOptions) -> Self {
        let book = dir.join("config");
        std::fs::create_dir_all(book.join("carriers")).unwrap();
        std::fs::create_dir_all(book.join("plans")).unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
        let file = format!("carriers/{}.toml", options.carrier.id());
        let carrier = std::fs::read_to_string(shipped.join(&file)).unwrap();
        let carrier = carrier
            .replace("[carrier]\n", &format!("[carrier]\nslices = {}\n", options.slices))
            .replace("reply_timeout = \"8s\"", "reply_timeout = \"1s\"");
        std::fs::write(book.join(&file), carrier).unwrap();
        for plan in options.carrier.plans() {
            std::fs::copy(
                shipped.join(format!("plans/{plan}.toml")),
                book.join(format!("plans/{plan}.toml")),
            )
            .unwrap();
        }
        let engine = format!(
            "{}\n[lease]\nttl = \"{}ms\"\nrenew = \"{}ms\"\n[history]\nmin_free = \"64MiB\"\n",
            options.engine_toml,
            options.lease_ttl_ms,
            options.lease_ttl_ms / 8,
        );
        std::fs::write(book.join("engine.toml"), engine).unwrap();
        Self { dir: book }
    }

    /// Replaces a piece of one of its files.
    pub fn change(&self, file: &str, from: &str, to: &str) {
        let path = self.dir.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} does not have {from}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Tunisia with these rules beside what every country needs.
    pub fn write_tunisia(&self, rules: &str) {
        std::fs::create_dir_all(self.dir.join("countries")).unwrap();
        let text = format!(
            "name = \"Tunisia\"\ncurrency = {{ code = \"TND\", source = \"ISO 4217\" }}\n\
             zones = {{ names = [\"Africa/Tunis\"], source = \"IANA time zone database\" }}\n{rules}"
        );
        std::fs::write(self.dir.join("countries/tn.toml"), text).unwrap();
    }

    pub fn write_plan(&self, id: &str, text: &str) {
        std::fs::write(self.dir.join(format!("plans/{id}.toml")), text).unwrap();
    }
}

/// An address that nobody listens on just now.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Waits until a condition holds; panics with `what` after the deadline.
pub fn wait_until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !holds() {
        assert!(Instant::now() < end, "waited {deadline:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
