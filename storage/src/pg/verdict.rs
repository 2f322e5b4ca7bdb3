//! One verdict per row of a batch: only a stale fence raises, everything else is told per row.

/// What became of a row. The numbers are those of the SQL functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum Verdict {
    /// Durable.
    Ok = 0,
    /// The key exists with the same money fields, from another incarnation: UNKNOWN.
    ExistsSame = 1,
    /// The key exists with other money fields: UNKNOWN, and a case.
    ExistsDifferent = 2,
    /// The subscription changed since it was loaded: load and decide again.
    StaleRev = 3,
    /// STOP stands.
    Stopped = 4,
    /// Outside of the charging window.
    OutsideWindow = 5,
    /// The shard is no longer ours.
    NotOwner = 6,
    /// No partition holds the period: quarantine.
    NoPartition = 7,
    /// The same final outcome is already recorded.
    FinalSame = 8,
    /// Another outcome is already recorded: a case; the row is never flipped.
    Conflict = 9,
    /// No such subscription.
    NotFound = 10,
    /// A spending cap stands in the way.
    OverCap = 11,
    /// The key exists with the same money fields, from this incarnation: the commit's answer was lost.
    ExistsMine = 12,
    /// A failover is being cleared up: nothing of the shard is begun.
    Quarantined = 13,
    /// An attempt of the charge may have been sent before a failover that lost its intent: it is asked about first.
    Lost = 14,
    /// A refund of what was collected of the charge has no result yet: it blocks the charge.
    RefundOpen = 15,
}

impl Verdict {
    /// The verdict of a number; a number that this version does not know reads as [`Verdict::Conflict`], which
    /// sends nothing and asks for people.
    #[must_use]
    pub fn from_number(number: i16) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::ExistsSame,
            2 => Self::ExistsDifferent,
            3 => Self::StaleRev,
            4 => Self::Stopped,
            5 => Self::OutsideWindow,
            6 => Self::NotOwner,
            7 => Self::NoPartition,
            8 => Self::FinalSame,
            10 => Self::NotFound,
            11 => Self::OverCap,
            12 => Self::ExistsMine,
            13 => Self::Quarantined,
            14 => Self::Lost,
            15 => Self::RefundOpen,
            _ => Self::Conflict,
        }
    }

    /// Verdicts of a whole batch; `None` from the database means that every row passed.
    #[must_use]
    pub fn of_batch(answer: Option<Vec<i16>>, rows: usize) -> Vec<Self> {
        match answer {
            None => vec![Self::Ok; rows],
            Some(numbers) => numbers.into_iter().map(Self::from_number).collect(),
        }
    }
}
