//! Which transfers a decision posts. Transfers only: debit, credit, amount > 0, one currency. Nothing is posted
//! for a refusal; what is pending is derivable from the open intents.

/// Whose account it is. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum Owner {
    /// A carrier.
    Carrier = 1,
    /// A merchant.
    Merchant = 2,
}

/// What an account is for. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum Purpose {
    /// What a carrier owes us.
    Receivable = 1,
    /// What we owe a merchant.
    Payable = 2,
    /// What may have moved: the result is unknown.
    Suspense = 3,
}

/// One transfer between a carrier's and a merchant's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum LegKind {
    /// Money moved: carrier's receivable to merchant's payable.
    Collected = 1,
    /// An attempt became unknown: carrier's suspense to merchant's suspense.
    EnterUnknown = 2,
    /// It is unknown no more: the same, backwards.
    LeaveUnknown = 3,
    /// Money was given back: merchant's payable to carrier's receivable.
    Refunded = 4,
    /// A refund became unknown: merchant's suspense to carrier's suspense.
    RefundEnterUnknown = 5,
    /// It is unknown no more: the same, backwards.
    RefundLeaveUnknown = 6,
    /// The carrier took money back by itself: merchant's payable to carrier's receivable.
    Reversed = 7,
}

impl LegKind {
    /// Debited and credited account of this kind of transfer.
    #[must_use]
    pub fn accounts(self) -> [(Owner, Purpose); 2] {
        match self {
            Self::Collected => [(Owner::Carrier, Purpose::Receivable), (Owner::Merchant, Purpose::Payable)],
            Self::Refunded | Self::Reversed => {
                [(Owner::Merchant, Purpose::Payable), (Owner::Carrier, Purpose::Receivable)]
            }
            Self::EnterUnknown | Self::RefundLeaveUnknown => {
                [(Owner::Carrier, Purpose::Suspense), (Owner::Merchant, Purpose::Suspense)]
            }
            Self::LeaveUnknown | Self::RefundEnterUnknown => {
                [(Owner::Merchant, Purpose::Suspense), (Owner::Carrier, Purpose::Suspense)]
            }
        }
    }

    /// The word for a kept number.
    #[must_use]
    pub fn name_of(number: i16) -> &'static str {
        match number {
            1 => "collected",
            2 => "enter_unknown",
            3 => "leave_unknown",
            4 => "refunded",
            5 => "refund_enter_unknown",
            6 => "refund_leave_unknown",
            7 => "reversed",
            _ => "unlisted",
        }
    }
}

/// A transfer that a decision posts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    /// Which accounts.
    pub kind: LegKind,
    /// How much, minor units, above 0.
    pub amount_minor: i64,
}
