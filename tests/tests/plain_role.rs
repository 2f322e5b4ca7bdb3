//! A role without any privilege, which owns its database and nothing else, is enough; one that may not ask which server this
//! is gets told what to grant.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use tests::{PLAIN_ROLE, World, WorldOptions, wait_until};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn an_owner_without_privileges_charges_and_one_that_may_not_see_the_server_is_told_what_to_grant() {
    let options = WorldOptions { plain_role: true, ..WorldOptions::default() };
    let world = World::start("plainrole", &options);
    assert_eq!(
        world.number(
            "SELECT count(*) FROM pg_roles WHERE rolname = current_role AND rolname = 'toll_plain'
                AND NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)
                AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = pg_roles.oid)"
        ),
        1,
        "everything here runs as a plain role"
    );
    world.import_rows("medina-ringtone-once", 0, 200, "2026-12-01");
    let engine = world.serve("first");
    wait_until("all are charged", LONG, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 200
    });
    // It noted which server this is, under its own power.
    assert_eq!(world.number("SELECT count(*) FROM database_guard WHERE counter > 0"), 1);
    world.compare();
    let doctor = || {
        let output = world.run(&["doctor", "--json"]);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = told["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["name"] == "failover").unwrap()
    };
    assert_eq!(doctor()["verdict"], "good");
    assert!(engine.terminate().1);
    world.check();

    // As some who run servers for others do it.
    world.as_superuser("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    let grant = "GRANT EXECUTE ON FUNCTION pg_control_system() TO";
    let mut serve = world.toll("data");
    let refused = serve.args(["serve", "--listen", "127.0.0.1:0"]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains(grant) && text.contains("pg_control_system"), "{text}");
    let check = doctor();
    assert!(check["verdict"] == "bad" && check["found"].as_str().unwrap().contains(grant), "{check}");
    // What does not need it goes on.
    assert!(world.run(&["status"]).status.success());

    world.as_superuser(&format!("{grant} {PLAIN_ROLE}"));
    assert_eq!(doctor()["verdict"], "good");
    world.import_rows("medina-ringtone-once", 200, 50, "2026-12-01");
    let engine = world.serve("again");
    wait_until("the rest is charged too", LONG, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 250
    });
    assert!(engine.terminate().1);
    world.compare();
}

#[test]
fn a_new_database_whose_role_may_not_see_the_server_says_what_to_grant() {
    let options = WorldOptions { plain_role: true, ..WorldOptions::default() };
    let world = World::start("plainnew", &options);
    world.as_superuser("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION toll_plain");
    world.as_superuser("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    let refused = world.toll("data").args(["serve", "--listen", "127.0.0.1:0"]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && text.contains("GRANT EXECUTE ON FUNCTION pg_control_system()"),
        "{text}"
    );
}
