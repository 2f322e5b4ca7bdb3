//! Takes credentials out of what is kept of an exchange.

use memchr::memmem::Finder;

/// Every form in which a carrier's secrets can stand on the wire.
#[derive(Default)]
pub(crate) struct Mask {
    needles: Vec<Finder<'static>>,
}

impl Mask {
    /// Masks a secret in this form from now on.
    pub(crate) fn add(&mut self, secret: &[u8]) {
        if !secret.is_empty() && self.needles.iter().all(|known| known.needle() != secret) {
            self.needles.push(Finder::new(secret).into_owned());
            // The longest first: a secret inside of another must not leave the rest of it behind.
            self.needles.sort_by_key(|needle| std::cmp::Reverse(needle.needle().len()));
        }
    }

    /// Replaces every secret by as many `*`, so that lengths and positions stay as they were on the wire.
    pub(crate) fn apply(&self, bytes: &mut [u8]) {
        for needle in &self.needles {
            let len = needle.needle().len();
            let mut from = 0;
            while let Some(at) = bytes.get(from..).and_then(|rest| needle.find(rest)) {
                let (start, end) = (from + at, from + at + len);
                bytes[start..end].fill(b'*');
                from = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_secret_is_replaced_wherever_it_stands() {
        let mut mask = Mask::default();
        for secret in ["inner", "an-inner-one", "inner", ""] {
            mask.add(secret.as_bytes());
        }
        let mut bytes = b"inner an-inner-one innerinner inne".to_vec();
        mask.apply(&mut bytes);
        assert_eq!(bytes, b"***** ************ ********** inne");
    }
}
