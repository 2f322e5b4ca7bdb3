#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn source(text: &str) -> Source {
    Source { file: "config/a.toml".to_owned(), text: text.to_owned() }
}

/// Reads `text` with `read`, finishes, and compares the problems, one a line.
fn check(text: &str, read: impl FnOnce(&mut Table<'_>, &mut Problems), expected: &[&str]) {
    let source = source(text);
    let mut problems = Problems::default();
    if let Some(mut table) = Table::parse(&source, &mut problems) {
        read(&mut table, &mut problems);
        table.finish(&mut problems);
    }
    let found: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(found, expected);
}

#[test]
fn values_come_with_their_places() {
    let text = "a = \"x\"\nb = 0x10\nc = true\nd = [1, 2]\n[e]\nf = { g = \"15m\", h = \"24:00\" }\n";
    let source = source(text);
    let mut problems = Problems::default();
    let mut root = Table::parse(&source, &mut problems).unwrap();
    assert_eq!(root.str("a", &mut problems).unwrap(), Spanned { value: "x".to_owned(), place: Place(4) });
    assert_eq!(root.int("b", 16..=16, &mut problems).unwrap().value, 16);
    assert!(root.bool("c", &mut problems).unwrap().value);
    let d = root.int_list("d", 0..=9, 2, &mut problems).unwrap();
    assert_eq!(d.value.iter().map(|item| item.value).collect::<Vec<_>>(), [1, 2]);
    let mut e = root.table("e", &mut problems).unwrap();
    let mut f = e.table("f", &mut problems).unwrap();
    assert_eq!(f.duration_s("g", 60..=900, &mut problems).unwrap().value, 900);
    assert_eq!(f.local_minute("h", 1_440, &mut problems).unwrap().value, 1_440);
    f.finish(&mut problems);
    e.finish(&mut problems);
    root.finish(&mut problems);
    assert!(problems.is_empty(), "{problems}");
}

#[test]
fn what_is_missing_is_a_problem_at_the_table() {
    let text = "[lease]\nttl = { }\n";
    check(
        text,
        |root, problems| {
            root.str("name", problems);
            let mut lease = root.table("lease", problems).unwrap();
            lease.int("n", 0..=1, problems);
            lease.one_of("mode", &[("a", 1), ("b", 2)], problems);
            let mut ttl = lease.table("ttl", problems).unwrap();
            ttl.duration_s("period", 0..=1, problems);
            assert!(ttl.opt_str("free", problems).is_none());
            ttl.finish(problems);
            lease.finish(problems);
        },
        &[
            "config/a.toml:1:1: missing key `lease.mode`; one of \"a\", \"b\"",
            "config/a.toml:1:1: missing key `lease.n`; an integer is required",
            "config/a.toml:1:1: missing key `name`; a string is required",
            "config/a.toml:2:7: missing key `lease.ttl.period`; a duration such as \"15m\" is required",
        ],
    );
}

#[test]
fn wrong_types_and_ranges_are_problems_at_the_value() {
    let text = "\"é\" = 1 # é\n\"ü\" = { a = 5, b = \"x\", c = [1, \"y\", 99999999999999999999], d = 7 }\n\
                e = \"1h30m\"\nf = \"90s\"\ng = \"24:00\"\nh = \"pro\"\ni = 1979-05-27\nj = [[1], 2]\n";
    check(
        text,
        |root, problems| {
            root.str("é", problems);
            let mut inner = root.table("ü", problems).unwrap();
            inner.str("a", problems);
            inner.int("b", 0..=1, problems);
            inner.int_list("c", 0..=1, 9, problems);
            inner.int("d", 0..=5, problems);
            inner.finish(problems);
            root.duration_s("e", 0..=60, problems);
            root.duration_s("f", 0..=60, problems);
            root.local_minute("g", 1_439, problems);
            root.one_of("h", &[("prod", 1), ("test", 2)], problems);
            root.bool("i", problems);
            root.tables("j", 1, problems);
        },
        &[
            "config/a.toml:1:7: `é`: expected a string, found an integer; write it in quotes",
            "config/a.toml:2:13: `ü.a`: expected a string, found an integer; write it in quotes",
            "config/a.toml:2:20: `ü.b`: expected an integer, found a string; write a whole number without quotes",
            "config/a.toml:2:33: `ü.c[1]`: expected an integer, found a string; write a whole number without quotes",
            "config/a.toml:2:38: `ü.c[2]`: expected an integer, found 99999999999999999999, which does not fit into \
             64 bits; write a whole number without quotes",
            "config/a.toml:2:65: `ü.d` is 7; write a number from 0 to 5",
            "config/a.toml:3:5: `e` is \"1h30m\"; write a duration such as \"90s\", \"15m\", \"4h\" or \"2d\"",
            "config/a.toml:4:5: `f` is \"90s\"; write a duration from 0s to 1m",
            "config/a.toml:5:5: `g` is \"24:00\"; write a local time from 00:00 to 23:59",
            "config/a.toml:6:5: `h` is \"pro\"; did you mean \"prod\"? one of \"prod\", \"test\"",
            "config/a.toml:7:5: `i`: expected true or false, found a datetime; write it without quotes",
            "config/a.toml:8:6: `j[0]`: expected a table, found an array; write it in braces or under a [header] of \
             its own",
            "config/a.toml:8:11: `j` has 2 entries; at most 1 are allowed",
        ],
    );
}

#[test]
fn unknown_keys_name_the_nearest_and_all_known_ones() {
    let text = "foo = 1\n[[rule]]\nstatus = 1\n[[rule]]\nstatsu = 2\n  [other.deep]\n  x = 1\n";
    check(
        text,
        |root, problems| {
            root.opt_int("for", 0..=1, problems);
            for mut rule in root.tables("rule", 9, problems) {
                rule.opt_int("status", 0..=1, problems);
                rule.finish(problems);
            }
        },
        &[
            "config/a.toml:1:1: unknown key `foo`; did you mean `for`? known keys: for, rule",
            "config/a.toml:5:1: unknown key `rule[1].statsu`; did you mean `status`? known keys: status",
            "config/a.toml:6:4: unknown key `other`; known keys: for, rule",
        ],
    );
}

#[test]
fn every_syntax_error_is_told() {
    check(
        "a = \nb = x\nc = 1\nc = 2\n[d\n",
        |_, _| panic!("no table with syntax errors"),
        &[
            "config/a.toml:1:5: not TOML: the value is missing; write it after the =",
            "config/a.toml:2:5: not TOML: string values must be quoted; expected literal string",
            "config/a.toml:4:1: duplicate key `c`; keep one of them",
            "config/a.toml:5:3: not TOML: unclosed table; expected `]`",
        ],
    );
}

#[test]
fn a_large_file_is_refused() {
    check(
        &"#".repeat(SOURCE_BYTES_MAX + 1),
        |_, _| panic!("no table"),
        &["config/a.toml:1:1: the file has 262145 bytes; at most 262144 are read"],
    );
    check(&"#".repeat(SOURCE_BYTES_MAX), |_, _| {}, &[]);
}

#[test]
fn free_keys_are_listed_as_they_follow_each_other() {
    let source = source("[headers]\nx-b = \"1\"\n\"A c\" = \"2\"\n");
    let mut problems = Problems::default();
    let mut root = Table::parse(&source, &mut problems).unwrap();
    let mut headers = root.table("headers", &mut problems).unwrap();
    let keys = headers.keys();
    assert_eq!(keys.iter().map(|key| key.value.as_str()).collect::<Vec<_>>(), ["x-b", "A c"]);
    assert_eq!(source.problem(keys[1].place, "w", "h").to_string(), "config/a.toml:3:1: w; h");
    assert_eq!(headers.type_of("x-b"), Some("string"));
    headers.str("x-b", &mut problems);
    headers.problem("x-b", "bad header", "", &mut problems);
    headers.problem("none", "no header", "", &mut problems);
    headers.finish(&mut problems);
    let found: Vec<String> = problems.into_vec().iter().map(Problem::to_string).collect();
    let expected = [
        "config/a.toml:1:1: no header",
        "config/a.toml:2:7: bad header",
        "config/a.toml:3:1: unknown key `headers.A c`; known keys: x-b",
    ];
    assert_eq!(found, expected);
}

#[test]
fn places_within_strings() {
    let source = source("a = \"xéy\"\nb = '''\nline\n  two'''\nc = \"\\u0041bc\"\nd = \"\"\n");
    let mut problems = Problems::default();
    let mut root = Table::parse(&source, &mut problems).unwrap();
    let mut at = |key: &str, offset| {
        let value = root.str(key, &mut problems).unwrap();
        let problem = source.problem(source.place_within(&value, offset), "", "");
        (problem.line, problem.column)
    };
    assert_eq!(at("a", 3), (1, 8));
    assert_eq!(at("b", 7), (4, 3));
    assert_eq!(at("c", 1), (5, 5), "an escape stands before it");
    assert_eq!(at("d", 0), (6, 6));
    assert_eq!(at("d", 9), (6, 5), "beyond its end");
}

#[test]
fn problems_are_sorted_bounded_and_kept_once() {
    let source = source("x\n");
    let mut problems = Problems::default();
    for n in (0..PROBLEMS_MAX + 5).rev() {
        problems.push(source.problem(Place(0), format!("{n:05}"), ""));
        problems.push(source.problem(Place(0), format!("{n:05}"), ""));
    }
    assert!(problems.iter().is_sorted());
    assert_eq!(problems.iter().count(), PROBLEMS_MAX);
    assert!(problems.to_string().ends_with("\nand 10 more"));
}

/// Asks for every key with every method, as deep as the tables go.
fn read_everything(mut table: Table<'_>, depth: usize, problems: &mut Problems) {
    for key in table.keys() {
        table.opt_int(&key, 0..=9, problems);
        table.opt_bool(&key, problems);
        table.opt_one_of(&key, &[("abc", 1)], problems);
        table.opt_duration_s(&key, 1..=9, problems);
        table.opt_duration_ms(&key, 1..=9, problems);
        table.opt_local_minutes(&key, problems);
        table.opt_int_list(&key, 1..=9, 3, problems);
        if let Some(text) = table.opt_str(&key, problems) {
            (0..text.len() + 2).for_each(|n| {
                let _ = table.source().place_within(&text, n);
            });
        }
        let nested = table.tables(&key, 3, problems).into_iter().chain(table.opt_table(&key, problems));
        if depth > 0 {
            nested.for_each(|table| read_everything(table, depth - 1, problems));
        }
    }
    table.int("missing", 0..=1, problems);
    table.finish(problems);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let source = source(&text);
        let mut problems = Problems::default();
        if let Some(table) = Table::parse(&source, &mut problems) {
            read_everything(table, 4, &mut problems);
        }
        let _ = problems.to_string();
    }

    #[test]
    fn no_heap_of_toml_pieces_makes_it_panic(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "a", "b.c", "\"é\"", "=", " ", "\n", "\r\n", "\r", "[", "]", "[[", "]]", "[a]\n", "[[a]]\n", "[a.b]\n",
            "[b.c]\n", "a.b = 1\n", "a = {}\n", "a = []\n", "b.c.d = 1\n", "{", "}", ",", "1", "-", "0x", "1.5", "inf",
            "\"x\"", "'", "'''", "\"\"\"", "\\u12", "\\", "#", "true", "1979-05-27T07:32:00Z", "\u{feff}", "\0", "é",
        ]), 0..40),
    ) {
        let source = source(&pieces.concat());
        let mut problems = Problems::default();
        if let Some(table) = Table::parse(&source, &mut problems) {
            read_everything(table, 4, &mut problems);
        }
        let _ = problems.to_string();
    }
}

/// Texts that make a careless reader recurse too deep or take quadratic time; a test's thread has 2 MiB of stack.
#[test]
fn hostile_texts_of_full_size_are_answered() {
    let full = |head: &str, piece: &str| {
        let room = SOURCE_BYTES_MAX - head.len() - 8;
        head.to_owned() + &piece.repeat(room / piece.len())
    };
    // As deep as it gets: a sixteen-part header and key, 79 nested tables of sixteen-part keys.
    let path = format!("{}a", "a.".repeat(15));
    let nested = format!("{{ {path} = ").repeat(79) + "1" + &"}".repeat(79);
    let unsound = [
        full("a", ".a"),
        full("[a", ".a"),
        full("a = ", "["),
        full("a = ", "{a="),
        full("a = { a", ".a"),
        full("", "="),
        full("", "\""),
        full("", "a=1\n"),
        full("", "[a]\n"),
        format!("{path}.a = 1"),
        format!("[{path}]\n{path} = {nested}\n{path} = {nested}\n"),
    ];
    for text in unsound {
        let source = source(&text);
        let mut problems = Problems::default();
        assert!(Table::parse(&source, &mut problems).is_none(), "{}", excerpt(&text));
        assert!((1..=PROBLEMS_MAX).contains(&problems.iter().count()));
    }
    let sound = [
        full("", "[[a]]\n"),
        full("a = [", "1,") + "]",
        full("a = \"", "é") + "\"",
        (0..20_000).map(|n| format!("k{n} = 1\n")).collect(),
        format!("[{path}]\n{path} = {nested}\n"),
    ];
    for text in sound {
        let source = source(&text);
        let mut problems = Problems::default();
        let table = Table::parse(&source, &mut problems);
        assert!(problems.is_empty(), "{problems}");
        read_everything(table.unwrap(), 100, &mut problems);
        assert!((1..=PROBLEMS_MAX).contains(&problems.iter().count()));
    }
}
