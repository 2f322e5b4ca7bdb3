//! Populations: subscribers out of a seed, as a CSV file that `toll sub import` reads. The same spec gives the same bytes.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use jiff::civil::Date;

/// The columns, as the import expects them.
pub const HEADER: &str = "msisdn,plan,reference,zone,start";
/// Plans of one population.
const PLANS_MAX: usize = 1_000;
/// ITU-T E.164: an MSISDN has at most this many digits.
const MSISDN_DIGITS_MAX: usize = 15;
const WRITE_BUFFER_BYTES: usize = 1 << 18;
/// Odd and not divisible by 5: multiplying by it visits every number below a power of ten once.
const STEP: u128 = 7_368_787_613;

/// What to write.
#[derive(Debug, Clone)]
pub struct PopulationSpec {
    /// How many subscribers, each with one subscription.
    pub rows: u64,
    /// Decides who is on which plan and in which zone, and the numbers.
    pub seed: u64,
    /// The plans and their shares.
    pub plans: Vec<PlanShare>,
    /// The local date of everyone's first period; `None` leaves the column empty, which the import reads as today.
    pub start: Option<Date>,
}

/// A plan and what its subscribers look like.
#[derive(Debug, Clone)]
pub struct PlanShare {
    /// The plan's id in the book.
    pub plan: String,
    /// Its part of the rows, relative to the other plans'.
    pub weight: u32,
    /// What its subscribers' numbers begin with, such as `216`.
    pub msisdn_prefix: String,
    /// How many digits they have in all.
    pub digits: usize,
    /// Zones to choose from, evenly; none leaves the column empty, which the import reads as the carrier's default.
    pub zones: Vec<String>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Population {
    /// Rows without the header.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Rows per plan, as the spec lists them.
    pub per_plan: Vec<u64>,
}

/// Writes a population to `path`, replacing what is there. Numbers and references are unique within the file; two
/// populations of different seeds share no reference.
///
/// # Errors
/// `InvalidInput` when the spec cannot be met (no weight, numbers of a wrong form, ranges that overlap or are too small);
/// else what the system said.
pub fn write_csv(path: &Path, spec: &PopulationSpec) -> io::Result<Population> {
    check(spec)?;
    let mut out = BufWriter::with_capacity(WRITE_BUFFER_BYTES, File::create(path)?);
    let population = write_rows(&mut out, spec)?;
    out.flush()?;
    Ok(population)
}

fn write_rows(out: &mut impl Write, spec: &PopulationSpec) -> io::Result<Population> {
    let mut bytes = 0_u64;
    let mut put = |line: &str| {
        bytes += line.len() as u64;
        out.write_all(line.as_bytes())
    };
    put(&format!("{HEADER}\n"))?;
    let weights: u64 = spec.plans.iter().map(|share| u64::from(share.weight)).sum();
    let start = spec.start.map_or_else(String::new, |day| day.to_string());
    let mut per_plan = vec![0_u64; spec.plans.len()];
    // Plans with the same prefix and length draw from one range of numbers.
    let mut used: Vec<(&str, usize, u64)> = Vec::new();
    for row in 0..spec.rows {
        let draw = mix(spec.seed ^ mix(row));
        let place = pick(&spec.plans, draw % weights.max(1));
        let Some(share) = spec.plans.get(place) else { continue };
        per_plan[place] += 1;
        let key = (share.msisdn_prefix.as_str(), share.digits);
        let slot =
            used.iter().position(|(prefix, digits, _)| (*prefix, *digits) == key).unwrap_or_else(|| {
                used.push((key.0, key.1, 0));
                used.len() - 1
            });
        let number = nth_number(used[slot].2, free_digits(share), spec.seed)?;
        used[slot].2 += 1;
        let zone = match share.zones.len() as u64 {
            0 => "",
            zones => share.zones[usize::try_from((draw >> 32) % zones).unwrap_or(0)].as_str(),
        };
        let PlanShare { plan, msisdn_prefix, .. } = share;
        let width = free_digits(share);
        put(&format!("{msisdn_prefix}{number:0width$},{plan},s{}-{row:010},{zone},{start}\n", spec.seed))?;
    }
    Ok(Population { rows: spec.rows, bytes, per_plan })
}

fn check(spec: &PopulationSpec) -> io::Result<()> {
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if spec.plans.len() > PLANS_MAX {
        return wrong(format!("{} plans, at most {PLANS_MAX} are allowed", spec.plans.len()));
    }
    if spec.plans.iter().all(|share| share.weight == 0) {
        return wrong("no plan has a weight above 0".to_owned());
    }
    for share in &spec.plans {
        let PlanShare { plan, msisdn_prefix, digits, .. } = share;
        let numeric = msisdn_prefix.bytes().all(|byte| byte.is_ascii_digit());
        if msisdn_prefix.is_empty()
            || !numeric
            || !(msisdn_prefix.len() + 1..=MSISDN_DIGITS_MAX).contains(digits)
        {
            return wrong(format!("plan {plan}: no numbers of {digits} digits begin with {msisdn_prefix:?}"));
        }
        let texts = share.zones.iter().chain([plan]);
        if let Some(text) = texts.into_iter().find(|text| text.contains([',', '"', '\n', '\r'])) {
            return wrong(format!("plan {plan}: {text:?} cannot stand in a CSV field as it is"));
        }
        let overlaps = |other: &&PlanShare| {
            other.digits == *digits
                && other.msisdn_prefix != *msisdn_prefix
                && other.msisdn_prefix.starts_with(msisdn_prefix.as_str())
        };
        if let Some(other) = spec.plans.iter().find(overlaps) {
            return wrong(format!("numbers of plans {plan} and {} overlap", other.plan));
        }
    }
    Ok(())
}

fn free_digits(share: &PlanShare) -> usize {
    share.digits.saturating_sub(share.msisdn_prefix.len())
}

/// The n-th of the numbers with that many digits, in an arrangement that the seed decides.
fn nth_number(n: u64, digits: usize, seed: u64) -> io::Result<u64> {
    let room = 10_u128.pow(u32::try_from(digits).unwrap_or(0));
    if u128::from(n) >= room {
        let what = format!("more rows than there are numbers of {digits} free digits");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let number = (u128::from(n) * STEP + u128::from(mix(seed))) % room;
    Ok(u64::try_from(number).unwrap_or(0))
}

fn pick(plans: &[PlanShare], mut draw: u64) -> usize {
    for (place, share) in plans.iter().enumerate() {
        match draw.checked_sub(u64::from(share.weight)) {
            Some(left) => draw = left,
            None => return place,
        }
    }
    plans.len().saturating_sub(1)
}

/// SplitMix64's output function: neighbours come out unrelated.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::collections::HashSet;

    use jiff::civil::date;

    use super::*;

    fn share(plan: &str, weight: u32, prefix: &str, digits: usize, zones: &[&str]) -> PlanShare {
        PlanShare {
            plan: plan.to_owned(),
            weight,
            msisdn_prefix: prefix.to_owned(),
            digits,
            zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
        }
    }

    fn spec(rows: u64, seed: u64) -> PopulationSpec {
        let zones = ["Europe/Madrid", "Atlantic/Canary"];
        PopulationSpec {
            rows,
            seed,
            plans: vec![
                share("alfa-news", 3, "34", 11, &zones),
                share("alfa-games", 1, "34", 11, &zones[..1]),
                share("medina-kids", 4, "216", 8, &[]),
            ],
            start: Some(date(2027, 1, 11)),
        }
    }

    fn text(spec: &PopulationSpec) -> String {
        let mut out = Vec::new();
        let population = write_rows(&mut out, spec).unwrap();
        assert_eq!((population.bytes, population.rows), (out.len() as u64, spec.rows));
        assert_eq!(population.per_plan.iter().sum::<u64>(), spec.rows);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_same_spec_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(text(&spec(2_000, 7)), text(&spec(2_000, 7)));
        assert_ne!(text(&spec(2_000, 7)), text(&spec(2_000, 8)));
        let (short, long) = (text(&spec(1_000, 7)), text(&spec(2_000, 7)));
        assert!(long.starts_with(&short), "more rows only add rows");
    }

    #[test]
    fn numbers_and_references_are_unique_and_of_their_plan() {
        // 40,000 of 100,000 numbers of five free digits: a collision would show.
        let text = text(&spec(80_000, 3));
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>().join(","), HEADER);
        let (mut numbers, mut references, mut kids, mut canary) = (HashSet::new(), HashSet::new(), 0, 0);
        for row in reader.records() {
            let row = row.unwrap();
            let (prefix, digits) = if &row[1] == "medina-kids" { ("216", 8) } else { ("34", 11) };
            assert!(row[0].starts_with(prefix) && row[0].len() == digits, "{row:?}");
            kids += u32::from(digits == 8);
            canary += u32::from(&row[3] == "Atlantic/Canary");
            assert_eq!((row[3].is_empty(), &row[4]), (digits == 8, "2027-01-11"));
            assert!(numbers.insert(row[0].to_owned()) && references.insert(row[2].to_owned()), "{row:?}");
        }
        assert_eq!(numbers.len(), 80_000);
        assert!((39_000..41_000).contains(&kids) && (14_000..16_000).contains(&canary), "{kids} {canary}");
    }

    #[test]
    fn every_number_of_a_range_is_used_before_it_runs_out() {
        let mut small = spec(1_000, 9);
        small.plans = vec![share("p", 1, "4912345", 10, &[])];
        small.start = None;
        let numbers: HashSet<String> =
            text(&small).lines().skip(1).map(|line| line[..10].to_owned()).collect();
        assert_eq!(numbers.len(), 1_000);
        small.rows = 1_001;
        assert_eq!(write_rows(&mut Vec::new(), &small).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn specs_that_cannot_be_met_are_refused() {
        let mut bad = Vec::new();
        for plans in [
            vec![],
            vec![share("p", 0, "34", 11, &[])],
            vec![share("p", 1, "", 11, &[])],
            vec![share("p", 1, "3x", 11, &[])],
            vec![share("p", 1, "34", 16, &[])],
            vec![share("p", 1, "34", 2, &[])],
            vec![share("p,q", 1, "34", 11, &[])],
            vec![share("p", 1, "34", 11, &["a\nb"])],
            vec![share("p", 1, "34", 11, &[]), share("q", 1, "346", 11, &[])],
        ] {
            let refused = check(&PopulationSpec { plans, ..spec(1, 1) });
            bad.push(refused.unwrap_err().kind());
        }
        assert!(bad.iter().all(|kind| *kind == io::ErrorKind::InvalidInput));
        assert!(check(&spec(1, 1)).is_ok());
    }
}
