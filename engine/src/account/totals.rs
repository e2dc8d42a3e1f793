//! Sums over every account of a program: what was issued, what is outstanding. Derived from records alone.

use std::collections::BTreeMap;

use meed_schemas::codec::{CodecError, Reader, put_bytes, put_varint};
use meed_schemas::record::{Detail, MoveOp, Record, RecordKind, extension};

/// The wallet of every record: the codec refuses those of others.
const WALLET: &str = extension::POINTS_WALLET;
/// The version byte that [`Totals::encode`] writes.
const FORMAT: u8 = 1;

/// Sums in points (and `accounts`), of one program and wallet. Those of a shard add up to those of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Accounts that exist.
    pub accounts: i128,
    /// Awarded by EARN, pending points included.
    pub issued: i128,
    /// Spent by REDEEM.
    pub redeemed: i128,
    /// Net of ADJUST.
    pub adjusted: i128,
    /// Taken by reversals of EARN, into debt included.
    pub reversed: i128,
    /// Given back by reversals of REDEEM.
    pub returned: i128,
    /// Expired unspent.
    pub expired: i128,
    /// Written off: asked back by reversals, but no longer there.
    pub shortfall: i128,
    /// Now pending.
    pub pending: i128,
    /// Now held.
    pub held: i128,
    /// Now owed by members.
    pub debt: i128,
}

impl Sums {
    /// Total and pending points of all accounts: the liability, less what members owe.
    pub fn outstanding(&self) -> i128 {
        self.issued + self.adjusted + self.returned - self.redeemed - self.reversed - self.expired
    }

    /// Adds what a record of the program and wallet did.
    fn add(&mut self, record: &Record) {
        if record.sequence == 1 {
            self.accounts += 1;
        }
        let points = i128::from(record.points);
        match record.kind {
            RecordKind::Earn => self.issued += points,
            RecordKind::Redeem => self.redeemed -= points,
            RecordKind::Adjust => self.adjusted += points,
            RecordKind::Expire => self.expired -= points,
            RecordKind::Reversal => {
                if let Detail::Reversal { original_kind, shortfall_points, .. } = &record.detail {
                    match original_kind {
                        RecordKind::Earn => self.reversed -= points,
                        _ => self.returned += points,
                    }
                    self.shortfall += i128::from(*shortfall_points);
                }
            }
            _ => {}
        }
        for m in &record.moves {
            let (points, pending) = (i128::from(m.points), m.lot.activates_at.is_some());
            match m.op {
                MoveOp::Grant if pending => self.pending += points,
                MoveOp::Activate => self.pending -= points,
                MoveOp::Burn if pending => self.pending -= points,
                MoveOp::Hold => self.held += points,
                MoveOp::Release | MoveOp::Capture => self.held -= points,
                MoveOp::PayDebt => self.debt -= points,
                MoveOp::Owe => self.debt += points,
                _ => {}
            }
        }
    }

    /// Adds another's sums.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.fields_mut().into_iter().zip(other.fields()) {
            *mine += theirs;
        }
    }

    fn fields(&self) -> [i128; 11] {
        let Self { accounts, issued, redeemed, adjusted, reversed, returned, expired, shortfall, .. } = *self;
        [
            accounts,
            issued,
            redeemed,
            adjusted,
            reversed,
            returned,
            expired,
            shortfall,
            self.pending,
            self.held,
            self.debt,
        ]
    }

    fn fields_mut(&mut self) -> [&mut i128; 11] {
        [
            &mut self.accounts,
            &mut self.issued,
            &mut self.redeemed,
            &mut self.adjusted,
            &mut self.reversed,
            &mut self.returned,
            &mut self.expired,
            &mut self.shortfall,
            &mut self.pending,
            &mut self.held,
            &mut self.debt,
        ]
    }
}

/// Sums by program and wallet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By program, then wallet.
    programs: BTreeMap<Box<str>, BTreeMap<Box<str>, Sums>>,
}

impl Totals {
    /// Adds what a record did.
    pub fn add(&mut self, record: &Record) {
        if !record.kind.is_effect() || record.kind == RecordKind::Program {
            return;
        }
        self.change(record.identity.program(), |sums| sums.add(record));
    }

    /// Calls `change` with the sums of a program's points; allocates only for the first.
    fn change(&mut self, program: &str, change: impl FnOnce(&mut Sums)) {
        match self.programs.get_mut(program).and_then(|wallets| wallets.get_mut(WALLET)) {
            Some(sums) => change(sums),
            None => change(self.programs.entry(program.into()).or_default().entry(WALLET.into()).or_default()),
        }
    }

    /// Every program and wallet with its sums.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Sums)> {
        self.programs.iter().flat_map(|(program, wallets)| {
            wallets.iter().map(move |(wallet, sums)| (program.as_ref(), wallet.as_ref(), sums))
        })
    }

    /// The sums of a program's points.
    pub fn of(&self, program: &str) -> Sums {
        self.programs.get(program).and_then(|wallets| wallets.get(WALLET)).copied().unwrap_or_default()
    }

    /// Adds another shard's totals.
    pub fn merge(&mut self, other: &Self) {
        for (program, wallets) in &other.programs {
            let mine = self.programs.entry(program.clone()).or_default();
            for (wallet, sums) in wallets {
                mine.entry(wallet.clone()).or_default().merge(sums);
            }
        }
    }

    /// Appends the totals.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put_varint(out, self.iter().count() as u64);
        for (program, wallet, sums) in self.iter() {
            put_bytes(out, program.as_bytes());
            put_bytes(out, wallet.as_bytes());
            for value in sums.fields() {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Reads what [`Totals::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are damaged or of a newer format.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let r = &mut Reader::new(bytes);
        match r.byte("format")? {
            FORMAT => {}
            newer => return Err(CodecError::NewerFormat(newer)),
        }
        let mut totals = Self::default();
        for _ in 0..r.count("totals")? {
            let program: Box<str> = r.text("program")?.into();
            let wallet: Box<str> = r.text("wallet")?.into();
            let mut sums = Sums::default();
            for value in sums.fields_mut() {
                *value = r.u128("totals")? as i128;
            }
            totals.programs.entry(program).or_default().insert(wallet, sums);
        }
        if r.is_empty() { Ok(totals) } else { Err(CodecError::Invalid("length")) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::test_fixture;

    #[test]
    fn totals_are_pinned() {
        let sums = |factor: i128| {
            let mut sums = Sums::default();
            sums.fields_mut().into_iter().zip(1..).for_each(|(field, number)| *field = factor * number);
            sums
        };
        let mut totals = Totals::default();
        for (program, factor) in [("default", 1_000_000_007), ("other", -(1 << 80))] {
            totals.change(program, |of_program| *of_program = sums(factor));
        }
        let written = [("none", &Totals::default()), ("two programs", &totals)].map(|(name, totals)| {
            let mut bytes = Vec::new();
            totals.encode(&mut bytes);
            (name, bytes)
        });
        let fixture = test_fixture::lines("state/totals-v1.hex", &written);
        assert_eq!(Totals::decode(&fixture[0]).unwrap(), Totals::default());
        assert_eq!(Totals::decode(&fixture[1]).unwrap(), totals);
        // The order of the fields is part of the form.
        assert_eq!((totals.of("default").accounts, totals.of("default").debt), (1_000_000_007, 11_000_000_077));
    }
}
