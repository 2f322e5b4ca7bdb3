//! What nobody can know any more: a request that began with a wish, whose wish and intent one failover destroyed, and whose
//! sender's machine was lost with the only spool that named it. That is not promised (docs/guarantees.md), so it is counted
//! apart. Everything else that a carrier applied and that is neither approved nor open here is lost: what is due without a
//! wish is always put in doubt, however much a failover destroyed.

use std::collections::BTreeSet;

use billing_core::outcome::Op;
use storage::memory::Destroyed;

/// Whether a request of which there is no row may be forgotten, by what failovers destroyed under its key and the spools that
/// are gone with their machines.
pub(super) fn may_be(op: Op, destroyed: &[Destroyed], gone: &BTreeSet<String>) -> bool {
    let without_a_trace =
        |one: &Destroyed| one.op == op as i16 && one.wish_too && !one.handed_in && gone.contains(&one.spool);
    op == Op::Refund && !destroyed.is_empty() && destroyed.iter().all(without_a_trace)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn gone() -> BTreeSet<String> {
        BTreeSet::from(["spool 2".to_owned()])
    }

    fn destroyed() -> Destroyed {
        Destroyed { op: Op::Refund as i16, wish_too: true, spool: "spool 2".to_owned(), handed_in: false }
    }

    #[test]
    fn a_refund_is_forgotten_when_wish_intent_and_spool_are_gone_together() {
        assert!(may_be(Op::Refund, &[destroyed()], &gone()));
    }

    #[test]
    fn a_request_is_lost_while_anything_of_it_is_left() {
        let lost =
            |destroyed: &[Destroyed]| assert!(!may_be(Op::Refund, destroyed, &gone()), "{destroyed:?}");
        lost(&[]);
        lost(&[Destroyed { wish_too: false, ..destroyed() }]);
        lost(&[Destroyed { handed_in: true, ..destroyed() }]);
        lost(&[Destroyed { spool: "spool 1".to_owned(), ..destroyed() }]);
        // Once without a trace, and once not.
        lost(&[destroyed(), Destroyed { wish_too: false, ..destroyed() }]);
    }

    #[test]
    fn a_charge_is_never_forgotten() {
        let charge = Destroyed { op: Op::Charge as i16, ..destroyed() };
        assert!(!may_be(Op::Charge, std::slice::from_ref(&charge), &gone()));
        assert!(!may_be(Op::Refund, &[charge], &gone()), "another request under the same key");
    }
}
