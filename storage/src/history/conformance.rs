//! One suite for every [`HistoryStore`]: what callers rely on, asserted. A broken expectation panics, as in any test.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::Future;

use super::{
    APPEND_ROWS_MAX, DICTIONARY_BYTES_MAX, HistoryError, HistoryKey, HistoryStore, ROW_BYTES_MAX, Room,
    SealedRow, digest_of,
};

const SUBSCRIPTION: i64 = (7 << 32) | 41;
const MONTH: i32 = 202_611;

/// Runs the whole suite on a store that has room and holds no rows yet.
///
/// # Panics
/// At the first expectation that does not hold.
pub async fn exercise(store: &dyn HistoryStore) {
    assert_eq!(store.room(), Room::Ok);
    assert_eq!(store.count().await.unwrap(), 0, "the suite starts on an empty store");
    store.append(Vec::new()).await.unwrap();
    upserts(store).await;
    ranges_and_sequence(store).await;
    big_values(store).await;
    limits(store).await;
    dictionaries(store).await;
    concurrent_appends(store).await;
}

/// What was acknowledged is there after closing and opening again; `open` opens the same, at first empty, place.
///
/// # Panics
/// At the first expectation that does not hold.
pub async fn exercise_reopening<S, F>(open: impl Fn() -> F)
where
    S: HistoryStore,
    F: Future<Output = S>,
{
    let dictionary = b"what all messages share".to_vec();
    let digest = digest_of(&dictionary);
    for round in 0..3_u8 {
        let store = open().await;
        assert_eq!(store.count().await.unwrap(), u64::from(round) * 10);
        if round > 0 {
            assert_eq!(store.dictionary(digest).await.unwrap().as_ref(), Some(&dictionary));
            let rows = store.timeline(SUBSCRIPTION, MONTH, MONTH, 100).await.unwrap();
            assert_eq!(rows, (0..i32::from(round) * 10).map(|n| row(n, 1, 0, &[9; 300])).collect::<Vec<_>>());
        }
        store.put_dictionary(digest, dictionary.clone()).await.unwrap();
        let from = i32::from(round) * 10;
        store.append((from..from + 10).map(|n| row(n, 1, 0, &[9; 300])).collect()).await.unwrap();
    }
}

fn row(period: i32, attempt_no: i16, seq: i64, bytes: &[u8]) -> SealedRow {
    let key = HistoryKey { subscription_id: SUBSCRIPTION, month: MONTH, period, attempt_no, seq };
    SealedRow { key, bytes: bytes.to_vec() }
}

async fn upserts(store: &dyn HistoryStore) {
    let (first, second) = (row(1, 1, 0, b"first"), row(1, 1, 0, b"second"));
    assert_eq!(store.get(first.key).await.unwrap(), None);
    store.append(vec![first.clone()]).await.unwrap();
    assert_eq!(store.get(first.key).await.unwrap(), Some(first.clone()));
    store.append(vec![first.clone()]).await.unwrap();
    assert_eq!(store.count().await.unwrap(), 1, "the same key twice is one row");
    store.append(vec![second.clone()]).await.unwrap();
    assert_eq!(store.get(first.key).await.unwrap(), Some(second.clone()));
    // Within one call the last one counts, wherever it stands.
    store.append(vec![second.clone(), row(0, 1, 0, b"x"), first.clone()]).await.unwrap();
    assert_eq!(store.get(first.key).await.unwrap(), Some(first));
    assert_eq!(store.count().await.unwrap(), 2);
}

async fn ranges_and_sequence(store: &dyn HistoryStore) {
    let subscription_id = -5;
    let place =
        |month, period, attempt_no, seq| HistoryKey { subscription_id, month, period, attempt_no, seq };
    let mut keys = [
        place(202_512, i32::MAX, 3, 9),
        place(202_601, -1, 1, 0),
        place(202_601, 0, 0, i64::MIN),
        place(202_601, 0, 0, i64::MAX),
        place(202_601, 0, 1, 0),
        place(202_601, 0, 2, 0),
        place(202_601, 256, 1, 0),
        place(202_602, -7, 1, 0),
    ];
    let neighbours = [
        HistoryKey { subscription_id: subscription_id - 1, ..place(202_601, 0, 1, 0) },
        HistoryKey { subscription_id: subscription_id + 1, ..place(202_601, 0, 1, 0) },
    ];
    let rows = keys.iter().rev().chain(&neighbours);
    let rows: Vec<_> = rows.map(|key| SealedRow { key: *key, bytes: key.encode().to_vec() }).collect();
    store.append(rows).await.unwrap();
    keys.sort();
    for (from, to, expected) in [
        (202_601, 202_601, &keys[1..7]),
        (202_512, 202_601, &keys[..7]),
        (202_601, 202_699, &keys[1..]),
        (i32::MIN, i32::MAX, &keys[..]),
        (202_603, 202_612, &[]),
        (202_602, 202_601, &[]),
    ] {
        let found = store.timeline(subscription_id, from, to, 100).await.unwrap();
        assert_eq!(found.iter().map(|row| row.key).collect::<Vec<_>>(), expected, "{from}..={to}");
        assert!(found.iter().all(|row| row.bytes == row.key.encode()));
        let first = store.timeline(subscription_id, from, to, 2).await.unwrap();
        assert_eq!(first, found[..found.len().min(2)], "max_rows takes the first ones");
    }
    assert_eq!(store.timeline(subscription_id, i32::MIN, i32::MAX, 0).await.unwrap(), []);
    assert_eq!(store.timeline(i64::MAX, i32::MIN, i32::MAX, 10).await.unwrap(), []);
}

async fn big_values(store: &dyn HistoryStore) {
    let rows: Vec<_> =
        (0..3_u8).map(|n| row(500 + i32::from(n), 1, 0, &vec![n ^ 0x5a; 1024 * 1024])).collect();
    store.append(rows.clone()).await.unwrap();
    for row in &rows {
        assert_eq!(store.get(row.key).await.unwrap().as_ref(), Some(row));
    }
    let empty = row(503, 1, 0, b"");
    store.append(vec![empty.clone()]).await.unwrap();
    assert_eq!(store.get(empty.key).await.unwrap(), Some(empty));
}

async fn limits(store: &dyn HistoryStore) {
    let before = store.count().await.unwrap();
    let wide = vec![row(600, 1, 0, b"good"), row(601, 1, 0, &vec![0; ROW_BYTES_MAX + 1])];
    let long = (0..=APPEND_ROWS_MAX as i64).map(|seq| row(602, 1, seq, b"")).collect();
    let heavy = (0..8).map(|seq| row(603, 1, seq, &vec![0; ROW_BYTES_MAX])).collect();
    for rows in [wide, long, heavy] {
        assert!(matches!(store.append(rows).await, Err(HistoryError::Refused { .. })));
    }
    assert_eq!(store.count().await.unwrap(), before, "a refused append stores nothing");
}

async fn dictionaries(store: &dyn HistoryStore) {
    let rows = store.count().await.unwrap();
    let (one, two) = (b"dictionary one".to_vec(), vec![2; 100_000]);
    assert_eq!(store.dictionary(digest_of(&one)).await.unwrap(), None);
    for bytes in [&one, &two, &one] {
        store.put_dictionary(digest_of(bytes), bytes.clone()).await.unwrap();
    }
    assert_eq!(store.dictionary(digest_of(&one)).await.unwrap(), Some(one.clone()));
    assert_eq!(store.dictionary(digest_of(&two)).await.unwrap(), Some(two.clone()));
    assert_eq!(store.put_dictionary(digest_of(&one), two).await, Err(HistoryError::WrongDigest));
    let large = vec![1; DICTIONARY_BYTES_MAX + 1];
    assert!(matches!(
        store.put_dictionary(digest_of(&large), large).await,
        Err(HistoryError::Refused { .. })
    ));
    assert_eq!(store.count().await.unwrap(), rows, "dictionaries are no rows");
}

async fn concurrent_appends(store: &dyn HistoryStore) {
    const WRITERS: i64 = 16;
    const APPENDS: i32 = 20;
    let before = store.count().await.unwrap();
    let place = |writer, period, seq| HistoryKey {
        subscription_id: 1000 + writer,
        month: MONTH,
        period,
        attempt_no: 1,
        seq,
    };
    // All writers are under way at once, and each waits for its own acknowledgement before it goes on.
    let mut appends: Vec<_> = (0..WRITERS)
        .map(|writer| {
            Box::pin(async move {
                for period in 0..APPENDS {
                    let rows = (0..5).map(|seq| {
                        let key = place(writer, period, seq);
                        SealedRow { key, bytes: key.encode().to_vec() }
                    });
                    store.append(rows.collect()).await.unwrap();
                    let acknowledged = place(writer, period, 4);
                    assert!(store.get(acknowledged).await.unwrap().is_some(), "readable once acknowledged");
                }
            })
        })
        .collect();
    std::future::poll_fn(|context| {
        appends.retain_mut(|append| append.as_mut().poll(context).is_pending());
        if appends.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    drop(appends);
    for writer in 0..WRITERS {
        let found = store.timeline(1000 + writer, MONTH, MONTH, 1000).await.unwrap();
        let expected = (0..APPENDS).flat_map(|period| (0..5).map(move |seq| place(writer, period, seq)));
        assert!(found.iter().map(|row| row.key).eq(expected));
    }
    assert_eq!(store.count().await.unwrap(), before + WRITERS as u64 * APPENDS as u64 * 5);
}
