//! `storage/db/schema.sql` is the dump of what the migrations make: for people to read, kept fresh by this test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

use storage::launcher::{LauncherOptions, PrivatePostgres};
use storage::pg::{connect, migrate};

#[test]
fn the_readable_schema_is_fresh() {
    let dir = std::env::temp_dir().join(format!("tollbook-schema-{}", std::process::id()));
    let server = PrivatePostgres::start(LauncherOptions::new(&dir, "tollbook")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut conn = connect(&server.url(), "tollbook schema").await.unwrap();
        migrate(&mut conn).await.unwrap();
        // Applying twice changes nothing.
        migrate(&mut conn).await.unwrap();
    });
    let output = Command::new("pg_dump")
        .args([
            "--schema-only",
            "--no-owner",
            "--no-privileges",
            "--exclude-table=_sqlx_migrations",
            "--username=postgres",
        ])
        .arg("--host")
        .arg(server.socket_dir())
        .arg("tollbook")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let fresh = readable(&String::from_utf8(output.stdout).unwrap());
    server.stop();
    let _ = std::fs::remove_dir_all(&dir);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage/db/schema.sql");
    if std::env::var_os("TOLLBOOK_BLESS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == fresh,
        "storage/db/schema.sql is stale: TOLLBOOK_BLESS=1 cargo test -p tests --test schema"
    );
}

/// Tables, indexes and triggers without the dump's noise; the functions stand in storage/db/procedures.
fn readable(dump: &str) -> String {
    let mut text = String::from(
        "-- What the migrations make, as pg_dump tells it. Kept fresh by tests/tests/schema.rs; read it, do not edit it.\n",
    );
    let mut in_function = false;
    let mut blank = true;
    for line in dump.lines() {
        if line.starts_with("CREATE FUNCTION") {
            in_function = true;
        }
        let noise = in_function
            || line.starts_with("--")
            || line.starts_with("SET ")
            || line.starts_with("SELECT pg_catalog")
            || line.starts_with('\\');
        if line.starts_with("$$;")
            || (in_function && line.ends_with("$$;"))
            || (in_function && line.ends_with("$_$;"))
        {
            in_function = false;
        }
        if noise || (line.is_empty() && blank) {
            continue;
        }
        blank = line.is_empty();
        text.push_str(line);
        text.push('\n');
    }
    text
}
