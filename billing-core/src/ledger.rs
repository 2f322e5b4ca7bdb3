//! Which transfers a decision posts. Transfers only: debit, credit, amount > 0, one currency. Nothing is posted
//! for a refusal; what is pending is derivable from the open intents.

use crate::split::{Parts, Shares};

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
    /// Tax in what was collected, to be paid on for the merchant.
    Tax = 4,
    /// What a carrier keeps of what it collected.
    Fee = 5,
}

impl Owner {
    /// The word for a kept number.
    #[must_use]
    pub fn name_of(number: i16) -> &'static str {
        match number {
            1 => "carrier",
            2 => "merchant",
            _ => "unlisted",
        }
    }
}

impl Purpose {
    /// All of them, by number.
    pub const ALL: [Self; 5] = [Self::Receivable, Self::Payable, Self::Suspense, Self::Tax, Self::Fee];

    /// The word for a kept number.
    #[must_use]
    pub fn name_of(number: i16) -> &'static str {
        match number {
            1 => "receivable",
            2 => "payable",
            3 => "suspense",
            4 => "tax",
            5 => "carrier_fee",
            _ => "unlisted",
        }
    }
}

/// One transfer between a carrier's and a merchant's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum LegKind {
    /// Money moved: carrier's receivable to merchant's payable, without tax and the carrier's fee where a plan has them.
    Collected = 1,
    /// An attempt became unknown: carrier's suspense to merchant's suspense.
    EnterUnknown = 2,
    /// It is unknown no more: the same, backwards.
    LeaveUnknown = 3,
    /// The tax in what moved: carrier's receivable to the merchant's tax.
    Tax = 4,
    /// What the carrier keeps of it: carrier's receivable to its fee.
    CarrierFee = 5,
    /// Money was given back: merchant's payable to carrier's receivable.
    Refunded = 6,
    /// A refund became unknown: merchant's suspense to carrier's suspense.
    RefundEnterUnknown = 7,
    /// It is unknown no more: the same, backwards.
    RefundLeaveUnknown = 8,
    /// The carrier took money back by itself: merchant's payable to carrier's receivable.
    Reversed = 9,
    /// The tax in what was given or taken back: merchant's tax to carrier's receivable.
    TaxBack = 10,
    /// The fee that the carrier gave up with it: carrier's fee to its receivable.
    CarrierFeeBack = 11,
}

impl LegKind {
    /// Debited and credited account of this kind of transfer.
    #[must_use]
    pub fn accounts(self) -> [(Owner, Purpose); 2] {
        match self {
            Self::Collected => [(Owner::Carrier, Purpose::Receivable), (Owner::Merchant, Purpose::Payable)],
            Self::Tax => [(Owner::Carrier, Purpose::Receivable), (Owner::Merchant, Purpose::Tax)],
            Self::CarrierFee => [(Owner::Carrier, Purpose::Receivable), (Owner::Carrier, Purpose::Fee)],
            Self::Refunded | Self::Reversed => {
                [(Owner::Merchant, Purpose::Payable), (Owner::Carrier, Purpose::Receivable)]
            }
            Self::TaxBack => [(Owner::Merchant, Purpose::Tax), (Owner::Carrier, Purpose::Receivable)],
            Self::CarrierFeeBack => [(Owner::Carrier, Purpose::Fee), (Owner::Carrier, Purpose::Receivable)],
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
            4 => "tax",
            5 => "carrier_fee",
            6 => "refunded",
            7 => "refund_enter_unknown",
            8 => "refund_leave_unknown",
            9 => "reversed",
            10 => "tax_back",
            11 => "carrier_fee_back",
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

impl Leg {
    /// The legs that are posted for this one: what was collected, given back or taken back falls into the merchant's
    /// part, tax and the carrier's fee; everything else stays as it is. They sum to this leg's amount; a part of nothing
    /// is not posted. `fee_returned`: whether the carrier gives up its fee in what goes back; what it keeps is the
    /// merchant's loss.
    #[must_use]
    pub fn parts(self, shares: &Shares, fee_returned: bool) -> [Option<Self>; 3] {
        let back = matches!(self.kind, LegKind::Refunded | LegKind::Reversed);
        if !(back || self.kind == LegKind::Collected) || shares.is_none() {
            return [Some(self), None, None];
        }
        let Parts { tax_minor, carrier_fee_minor, merchant_minor } = shares.split(self.amount_minor);
        let leg = |kind, amount_minor| (amount_minor > 0).then_some(Self { kind, amount_minor });
        let (fee_minor, merchant_minor) = match back && !fee_returned {
            true => (0, merchant_minor + carrier_fee_minor),
            false => (carrier_fee_minor, merchant_minor),
        };
        let (tax, fee) = match back {
            true => (LegKind::TaxBack, LegKind::CarrierFeeBack),
            false => (LegKind::Tax, LegKind::CarrierFee),
        };
        [leg(self.kind, merchant_minor), leg(tax, tax_minor), leg(fee, fee_minor)]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_what_moves_is_split_and_nothing_is_lost() {
        let shares = Shares::new("19".parse().unwrap(), "30".parse().unwrap()).unwrap();
        let parts = |kind, amount_minor, shares: &Shares| {
            let parts = Leg { kind, amount_minor }.parts(shares, false);
            parts.into_iter().flatten().map(|leg| (leg.kind, leg.amount_minor)).collect::<Vec<_>>()
        };
        assert_eq!(
            parts(LegKind::Collected, 119, &shares),
            [(LegKind::Collected, 70), (LegKind::Tax, 19), (LegKind::CarrierFee, 30)]
        );
        assert_eq!(parts(LegKind::Collected, 119, &Shares::NONE), [(LegKind::Collected, 119)]);
        assert_eq!(parts(LegKind::Collected, 1, &shares), [(LegKind::Collected, 1)]);
        for kind in [LegKind::Refunded, LegKind::Reversed] {
            assert_eq!(parts(kind, 119, &shares), [(kind, 100), (LegKind::TaxBack, 19)], "the fee is kept");
            let returned = Leg { kind, amount_minor: 119 }.parts(&shares, true);
            let returned: Vec<_> =
                returned.into_iter().flatten().map(|leg| (leg.kind, leg.amount_minor)).collect();
            assert_eq!(returned, [(kind, 70), (LegKind::TaxBack, 19), (LegKind::CarrierFeeBack, 30)]);
        }
        for kind in [LegKind::EnterUnknown, LegKind::LeaveUnknown] {
            assert_eq!(parts(kind, 119, &shares), [(kind, 119)]);
        }
    }
}
