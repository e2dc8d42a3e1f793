//! Looking up what an account remembers: outcomes of keys, what was reversed, what expired, how holds ended.
//!
//! Each is looked for in the state, then in the overlay, then in what was loaded. Where something of its
//! kind was ever evicted and nothing was loaded, it has to be loaded first.

use meed_schemas::command::Keys;
use meed_schemas::record::KeyBinding;
use meed_schemas::time::Millis;

use super::facts::{ClosedHold, FactKey, FactValue, Facts, Fetch, Fetches, Outcome};
use super::{Account, Reversed};

/// What became of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// It is there.
    Yes(T),
    /// It is not.
    No,
    /// It may be in the store.
    Unknown,
}

/// What the keys of a request say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recognized {
    /// Neither was seen before.
    New,
    /// The request was executed, or refused and remembered.
    Before {
        /// Shard sequence of the record that renders the outcome.
        target: u64,
        /// The other key, which is to lead there too.
        bind: Option<KeyBinding>,
    },
    /// A key was used for another request, or the two lead to two outcomes.
    Reused,
}

impl Account {
    /// A fact that is not in the state.
    fn spilled(&self, fact: &FactKey, ever_spilled: bool, facts: &Facts) -> Found<FactValue> {
        if let Some(value) = self.rare.as_ref().and_then(|rare| rare.overlay.get(fact)) {
            return Found::Yes(value);
        }
        match facts.fact(fact) {
            _ if !ever_spilled => Found::No,
            Some(Some(value)) => Found::Yes(value),
            Some(None) => Found::No,
            None => Found::Unknown,
        }
    }

    /// The outcome that a key leads to.
    pub(super) fn outcome_of(&self, key: KeyBinding, facts: &Facts) -> Found<Outcome> {
        for operation in self.operations.iter().rev() {
            if operation.has_key(key) {
                return Found::Yes(Outcome {
                    target: operation.target,
                    fingerprint: operation.fingerprint,
                    refusal: operation.refusal,
                });
            }
        }
        let Some(rare) = self.rare.as_ref() else { return Found::No };
        match self.spilled(&key_fact(key), rare.spilled_keys.is_some(), facts) {
            Found::Yes(FactValue::Outcome(outcome)) => Found::Yes(outcome),
            Found::Unknown => Found::Unknown,
            _ => Found::No,
        }
    }

    /// What the keys of a request say, or what to load before that can be said.
    pub(super) fn recognize(&self, keys: &Keys, fingerprint: u64, facts: &Facts) -> Result<Recognized, Fetches> {
        let mut fetches = Fetches::new();
        let mut look_up = |hash: Option<u128>, business: bool| {
            let key = KeyBinding { hash: hash?, business };
            match self.outcome_of(key, facts) {
                Found::Yes(outcome) => Some(outcome),
                Found::No => None,
                Found::Unknown => {
                    fetches.push(Fetch::Fact(key_fact(key)));
                    None
                }
            }
        };
        let by_header = look_up(keys.idempotency, false);
        let by_business = look_up(keys.business, true);
        if !fetches.is_empty() {
            return Err(fetches);
        }
        let other = |outcome: &Outcome| outcome.fingerprint != fingerprint;
        if by_header.as_ref().is_some_and(other) || by_business.as_ref().is_some_and(other) {
            return Ok(Recognized::Reused);
        }
        Ok(match (by_header, by_business) {
            (None, None) => Recognized::New,
            (Some(a), Some(b)) if a.target != b.target => Recognized::Reused,
            (Some(a), Some(_)) => Recognized::Before { target: a.target, bind: None },
            // A business key remembers only what was executed.
            (Some(a), None) if a.refusal => Recognized::Before { target: a.target, bind: None },
            (Some(a), None) => Recognized::Before {
                target: a.target,
                bind: keys.business.map(|hash| KeyBinding { hash, business: true }),
            },
            (None, Some(b)) => Recognized::Before {
                target: b.target,
                bind: keys.idempotency.map(|hash| KeyBinding { hash, business: false }),
            },
        })
    }

    /// How much of an original was reversed so far.
    pub(super) fn reversed_of(&self, original: u64, facts: &Facts) -> Found<Reversed> {
        let Some(rare) = self.rare.as_ref() else { return Found::No };
        if let Some(reversed) = rare.reversed.iter().rev().find(|r| r.original == original) {
            return Found::Yes(*reversed);
        }
        match self.spilled(&FactKey::Reversed(original), rare.reversed_spilled, facts) {
            Found::Yes(FactValue::Reversed { points, amount }) => Found::Yes(Reversed { original, points, amount }),
            Found::Unknown => Found::Unknown,
            _ => Found::No,
        }
    }

    /// What expired unspent in the lots with this expiry: the points, and whether they are in the state.
    pub(super) fn expired_of(&self, expires_at: Millis, facts: &Facts) -> Found<(i64, bool)> {
        let Some(rare) = self.rare.as_ref() else { return Found::No };
        if let Some((_, points)) = rare.expired.iter().rev().find(|(e, _)| *e == expires_at) {
            return Found::Yes((*points, true));
        }
        let ever_spilled = rare.expired_spilled.is_some_and(|latest| expires_at <= latest);
        match self.spilled(&FactKey::ExpiredLot(expires_at), ever_spilled, facts) {
            Found::Yes(FactValue::ExpiredLot(points)) => Found::Yes((points, false)),
            Found::Unknown => Found::Unknown,
            _ => Found::No,
        }
    }

    /// How a hold that is not open ended.
    pub(super) fn closed_hold(&self, id: u64, facts: &Facts) -> Found<ClosedHold> {
        let Some(rare) = self.rare.as_ref() else { return Found::No };
        if let Some((_, closed)) = rare.closed.iter().rev().find(|(closed, _)| *closed == id) {
            return Found::Yes(*closed);
        }
        match self.spilled(&FactKey::ClosedHold(id), rare.closed_spilled, facts) {
            Found::Yes(FactValue::ClosedHold(closed)) => Found::Yes(closed),
            Found::Unknown => Found::Unknown,
            _ => Found::No,
        }
    }
}

/// The fact under which a key is spilled.
pub(super) fn key_fact(key: KeyBinding) -> FactKey {
    FactKey::Key { hash: key.hash, business: key.business }
}
