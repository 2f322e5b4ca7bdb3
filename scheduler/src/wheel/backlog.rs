//! What is overdue of one carrier and did not fit into its lane: ordered by when its charging window closes, then by when
//! it fell due.
//!
//! When a window closes depends on the plan and the zone only, so entries wait in one line per (plan, zone), each sorted
//! by due instant; which line is next is looked up in a handful of heads. An entry costs 16 bytes, as in the wheel.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use billing_core::ids::Shard;

use super::groups::{GroupNo, Groups};
use super::precedence::{Closing, Head, Moment};

/// When it fell due, and which subscription.
type Waiting = Reverse<(i64, i64)>;

/// The lines of one carrier.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    lines: BTreeMap<GroupNo, Line>,
    /// The first of each line: when it closes, when it fell due.
    heads: BTreeSet<(i64, i64, GroupNo)>,
    /// The version of the book that the lines know.
    version: i32,
    len: usize,
    /// Whether the odd place of the next round goes to what needs no window.
    odd: bool,
}

#[derive(Debug)]
struct Line {
    closing: Closing,
    waiting: BinaryHeap<Waiting>,
}

impl Line {
    fn head(&self, group: GroupNo) -> Option<(i64, i64, GroupNo)> {
        self.waiting.peek().map(|Reverse((due_ms, _))| (self.closing.of(*due_ms), *due_ms, group))
    }
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that its lines have taken.
    pub(super) fn bytes(&self) -> usize {
        self.lines.values().map(|line| line.waiting.capacity() * size_of::<Waiting>()).sum()
    }

    /// Takes one in.
    pub(super) fn push(
        &mut self,
        group: GroupNo,
        (due_ms, id): (i64, i64),
        at: &Moment<'_>,
        groups: &Groups,
    ) {
        let line = self
            .lines
            .entry(group)
            .or_insert_with(|| Line { closing: groups.closing(group, at), waiting: BinaryHeap::new() });
        let before = line.head(group);
        line.waiting.push(Reverse((due_ms, id)));
        let after = line.head(group);
        self.len += 1;
        if before != after {
            before.map(|head| self.heads.remove(&head));
            self.heads.extend(after);
        }
    }

    /// Looks up again what has closed meanwhile, and everything when the book has changed.
    pub(super) fn refresh(&mut self, at: &Moment<'_>, groups: &Groups) {
        let renewed = self.version != at.version;
        self.version = at.version;
        let stale: Vec<GroupNo> = match renewed {
            true => self.lines.keys().copied().collect(),
            false => {
                self.heads.range(..=(at.now_ms, i64::MAX, GroupNo::MAX)).map(|(.., group)| *group).collect()
            }
        };
        for group in stale {
            let Some(line) = self.lines.get_mut(&group) else { continue };
            if !renewed && line.closing.closes_ms > at.now_ms {
                continue;
            }
            line.head(group).map(|head| self.heads.remove(&head));
            line.closing = groups.closing(group, at);
            self.heads.extend(line.head(group));
        }
    }

    /// The first charge that needs a window; `None` when none waits.
    pub(super) fn head(&self, now_ms: i64) -> Option<Head> {
        let first = self.heads.range((now_ms.saturating_add(1), i64::MIN, 0)..).next();
        first.map(|(closes_ms, due_ms, _)| Head { closes_ms: *closes_ms, due_ms: *due_ms })
    }

    /// Whether something waits that needs no window: a deadline, or a period that is over.
    pub(super) fn needs_no_window(&self, now_ms: i64) -> bool {
        self.heads.first().is_some_and(|(closes_ms, ..)| *closes_ms <= now_ms)
    }

    /// Takes out up to `max`, the first ones first, but none that has to wait for `elsewhere`. What needs no window goes
    /// at once, but takes half of the places only while charges wait whose windows close.
    pub(super) fn take(
        &mut self,
        at: &Moment<'_>,
        elsewhere: Option<Head>,
        max: usize,
        taken: &mut Vec<i64>,
    ) {
        self.odd = !self.odd;
        let mut free_of_windows = (max + usize::from(self.odd)) / 2;
        for _ in 0..max {
            let first = self.heads.first().copied().filter(|(closes_ms, ..)| *closes_ms <= at.now_ms);
            let after_now = (at.now_ms.saturating_add(1), i64::MIN, 0);
            let charge = self.heads.range(after_now..).next().copied().filter(|(closes_ms, due_ms, _)| {
                let head = Head { closes_ms: *closes_ms, due_ms: *due_ms };
                head.may_pass(elsewhere, at.slack_ms)
            });
            let next = match (first, charge) {
                (Some(first), Some(_)) if free_of_windows > 0 => {
                    free_of_windows -= 1;
                    first
                }
                (_, Some(charge)) => charge,
                (Some(first), None) => first,
                (None, None) => break,
            };
            taken.extend(self.pop(next));
        }
    }

    fn pop(&mut self, head: (i64, i64, GroupNo)) -> Option<i64> {
        self.heads.remove(&head);
        let group = head.2;
        let line = self.lines.get_mut(&group)?;
        let popped = line.waiting.pop();
        self.len -= usize::from(popped.is_some());
        match line.head(group) {
            Some(head) => {
                self.heads.insert(head);
            }
            // Its memory is given back.
            None => {
                self.lines.remove(&group);
            }
        }
        popped.map(|Reverse((_, id))| id)
    }

    /// Takes everything of one shard out: group, due instant and id.
    pub(super) fn remove_shard(&mut self, shard: Shard) -> Vec<(GroupNo, i64, i64)> {
        let (first, last) = shard.id_range();
        let mut removed = Vec::new();
        for (group, line) in &mut self.lines {
            line.waiting.retain(|Reverse((due_ms, id))| {
                let stays = !(first..=last).contains(id);
                if !stays {
                    removed.push((*group, *due_ms, *id));
                }
                stays
            });
        }
        self.lines.retain(|_, line| !line.waiting.is_empty());
        self.heads = self.lines.iter().filter_map(|(group, line)| line.head(*group)).collect();
        self.len -= removed.len();
        removed
    }
}
