//! Workers, leases, fences, shards; the business clock, partitions and the book.

use super::MemoryConn;
use super::rows::{Incarnation, Worker};
use super::state::is;
use crate::pg::{BookVersion, ClockRow, Lease, MinuteRow, Names, StoreError, WorkerIdentity, WorkerRow};

impl MemoryConn {
    pub(crate) async fn register_worker(
        &mut self,
        slot: Option<i32>,
        incarnation: i64,
        who: &WorkerIdentity,
    ) -> Result<Lease, StoreError> {
        let who = who.clone();
        self.call("register_worker", move |state, arrival| {
            let next = state.workers.keys().next_back().map_or(1, |last| last + 1);
            let slot = slot.unwrap_or(next);
            let worker = state
                .workers
                .entry(slot)
                .and_modify(|worker| {
                    (worker.incarnation, worker.epoch) = (incarnation, worker.epoch + 1);
                    worker.renewals += 1;
                })
                .or_insert(Worker { slot, incarnation, epoch: 1, renewals: 0 });
            let epoch = worker.epoch;
            for before in state.incarnations.values_mut().filter(|i| i.slot == slot && !i.fenced) {
                (before.fenced, before.fenced_us) = (true, Some(arrival.commit_us));
            }
            state.owners.values_mut().filter(|owner| **owner == Some(slot)).for_each(|owner| *owner = None);
            let WorkerIdentity { host, boot_id, spool, endpoint } = who;
            let started_us = arrival.now_us;
            let row = Incarnation {
                incarnation,
                slot,
                epoch,
                started_us,
                host,
                boot_id,
                spool,
                endpoint,
                fenced: false,
                fenced_us: None,
            };
            state.incarnations.insert(incarnation, row);
            Ok(Lease { slot, incarnation, epoch })
        })
        .await
    }

    pub(crate) async fn renew_lease(&mut self, lease: &Lease) -> Result<bool, StoreError> {
        let lease = *lease;
        self.call("renew_lease", move |state, _| {
            let worker = state.workers.get_mut(&lease.slot).filter(|worker| is(worker, &lease));
            Ok(worker.map(|worker| worker.renewals += 1).is_some())
        })
        .await
    }

    pub(crate) async fn fence_worker(
        &mut self,
        lease: &Lease,
        renewals: Option<i64>,
    ) -> Result<bool, StoreError> {
        let lease = *lease;
        self.call("fence_worker", move |state, arrival| {
            let worker = state.workers.get_mut(&lease.slot);
            let worker = worker.filter(|w| is(w, &lease) && renewals.is_none_or(|seen| seen == w.renewals));
            let Some(worker) = worker else { return Ok(false) };
            (worker.epoch, worker.incarnation) = (worker.epoch + 1, 0);
            let owned = state.owners.values_mut().filter(|owner| **owner == Some(lease.slot));
            owned.for_each(|owner| *owner = None);
            if let Some(row) = state.incarnations.get_mut(&lease.incarnation) {
                (row.fenced, row.fenced_us) = (true, Some(arrival.commit_us));
            }
            Ok(true)
        })
        .await
    }

    pub(crate) async fn worker_rows(&mut self) -> Result<Vec<WorkerRow>, StoreError> {
        self.call("worker_rows", |state, _| {
            let rows = state.workers.values().filter_map(|worker| {
                let who = state.incarnations.get(&worker.incarnation)?;
                let owned = state.owners.values().filter(|owner| **owner == Some(worker.slot)).count();
                let Worker { slot, incarnation, epoch, renewals } = *worker;
                Some(WorkerRow {
                    lease: Lease { slot, incarnation, epoch },
                    renewals,
                    shards: i64::try_from(owned).unwrap_or(i64::MAX),
                    endpoint: who.endpoint.clone(),
                    spool: who.spool.clone(),
                    host: who.host.clone(),
                })
            });
            Ok(rows.collect())
        })
        .await
    }

    pub(crate) async fn owned_shards(&mut self) -> Result<(i64, i64, i64), StoreError> {
        self.call("owned_shards", |state, _| {
            let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            let alive = state.workers.values().filter(|worker| worker.incarnation != 0).count();
            let free = state.owners.values().filter(|owner| owner.is_none()).count();
            Ok((count(state.owners.len()), count(alive), count(free)))
        })
        .await
    }

    pub(crate) async fn claim_shards(&mut self, lease: &Lease, want: i32) -> Result<Vec<i32>, StoreError> {
        let lease = *lease;
        self.call("claim_shards", move |state, _| {
            state.check_fence(&lease)?;
            let own = state.owners.iter().filter(|(_, owner)| **owner == Some(lease.slot));
            let mut all: Vec<i32> = own.map(|(shard, _)| *shard).collect();
            let free = state.owners.iter_mut().filter(|(_, owner)| owner.is_none());
            let claimed = free.take(usize::try_from(want).unwrap_or(0)).map(|(shard, owner)| {
                *owner = Some(lease.slot);
                *shard
            });
            all.extend(claimed);
            Ok(all)
        })
        .await
    }

    pub(crate) async fn hand_over(&mut self, lease: &Lease, shards: &[i32]) -> Result<i32, StoreError> {
        let (lease, shards) = (*lease, shards.to_vec());
        self.call("hand_over", move |state, _| {
            state.check_fence(&lease)?;
            let mut given = 0;
            for shard in shards {
                if let Some(owner) = state.owners.get_mut(&shard).filter(|own| **own == Some(lease.slot)) {
                    *owner = None;
                    given += 1;
                }
            }
            Ok(given)
        })
        .await
    }

    pub(crate) async fn set_low_water(
        &mut self,
        lease: &Lease,
        shards: &[i32],
        low_water_us: Option<i64>,
    ) -> Result<i64, StoreError> {
        let (lease, shards) = (*lease, shards.to_vec());
        self.call("set_low_water", move |state, arrival| {
            state.check_fence(&lease)?;
            if let Some(low_water_us) = low_water_us {
                let own = |shard: &i32| state.owners.get(shard) == Some(&Some(lease.slot));
                for shard in shards.into_iter().filter(own).collect::<Vec<_>>() {
                    state.low_water.entry(shard).and_modify(|kept| *kept = (*kept).max(low_water_us));
                }
            }
            Ok(arrival.now_us)
        })
        .await
    }

    pub(crate) async fn read_clock(&mut self) -> Result<ClockRow, StoreError> {
        self.call("read_clock", |state, _| Ok(state.clock)).await
    }

    pub(crate) async fn ensure_partitions(&mut self, from_day: i32, to_day: i32) -> Result<i32, StoreError> {
        self.call("ensure_partitions", move |state, _| {
            let mut added = 0;
            for week in from_day / 7..=to_day / 7 {
                let (low, high) = (week * 7 * 2_048, (week + 1) * 7 * 2_048);
                if state.partitions.insert(low, high).is_none() {
                    added += 1;
                }
            }
            Ok(added)
        })
        .await
    }

    /// Counts for people: the simulation keeps none.
    pub(crate) async fn append_minutes(&mut self, _: i64, _: &[MinuteRow]) -> Result<(), StoreError> {
        self.call("append_minutes", |_, _| Ok(())).await
    }

    pub(crate) async fn trim_minutes(&mut self, _: i64, _: i32) -> Result<i32, StoreError> {
        self.call("trim_minutes", |_, _| Ok(0)).await
    }

    pub(crate) async fn current_version(&mut self) -> Result<Option<(i32, Vec<u8>)>, StoreError> {
        self.call("current_version", |state, _| Ok(Some((state.names.book_version, state.digest.clone()))))
            .await
    }

    /// There is only the one version that the database was made with, and its files are not kept.
    pub(crate) async fn book_version(&mut self, version: i32) -> Result<Option<BookVersion>, StoreError> {
        self.call("book_version", move |state, _| {
            Ok((version == state.names.book_version).then(|| BookVersion {
                version,
                digest: state.digest.clone(),
                files_json: "{}".to_owned(),
            }))
        })
        .await
    }

    pub(crate) async fn book_names(&mut self, digest: &[u8]) -> Result<Names, StoreError> {
        let digest = digest.to_vec();
        self.call("book_names", move |state, _| {
            if digest != state.digest {
                return Err(StoreError::Broken("this book was never applied to this database".to_owned()));
            }
            Ok((*state.names).clone())
        })
        .await
    }
}
