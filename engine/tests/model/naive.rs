//! A naive model of an account: every point is a token of its own, spend is a list of events, and every
//! answer is counted afresh from those. Slow, for small numbers, and written without the account's code.

use meed_schemas::time::{DAY_MS, Millis, NEVER, civil_from_days};

/// Where a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Pending,
    Live,
    Held(u64),
    /// Expired unspent, not yet counted by a reversal.
    Expired,
    Gone,
}

#[derive(Clone, Debug)]
struct Token {
    expires: Millis,
    activates: Option<Millis>,
    place: Place,
}

#[derive(Clone, Debug)]
struct Award {
    id: u64,
    points: i64,
    /// Minor units and multiplier in ten-thousandths.
    amount: Option<(i64, i64)>,
    month: i64,
    expires: Millis,
    activates: Option<Millis>,
    reversed_points: i64,
    reversed_amount: i64,
}

#[derive(Clone, Debug)]
struct Spending {
    id: u64,
    /// Expiry of each point taken.
    taken: Vec<Millis>,
    given_back: usize,
}

/// The rules of the program in hand.
#[derive(Clone, Debug)]
pub struct Rules {
    pub expiry_days: Option<i64>,
    pub pending_days: i64,
    pub floor: i64,
    /// (from in minor units, multiplier in ten-thousandths).
    pub levels: Vec<(i64, i64)>,
    pub window: &'static str,
}

pub struct Naive {
    rules: Rules,
    tokens: Vec<Token>,
    pub debt: i64,
    holds: Vec<(u64, Millis)>,
    awards: Vec<Award>,
    spendings: Vec<Spending>,
    spend: Vec<(i64, i64)>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    Insufficient,
    Exceeds,
    Nothing,
    Hold,
}

/// How much of an original.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Rest,
    Amount(i64),
    Points(i64),
}

fn month_of(at: Millis) -> i64 {
    let (year, month, _) = civil_from_days(at.div_euclid(DAY_MS));
    year * 12 + i64::from(month) - 1
}

impl Naive {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            tokens: Vec::new(),
            debt: 0,
            holds: Vec::new(),
            awards: Vec::new(),
            spendings: Vec::new(),
            spend: Vec::new(),
        }
    }

    /// What falls due at or before now, instant by instant.
    pub fn settle(&mut self, now: Millis) {
        while let Some(at) = self.next_due().filter(|at| *at <= now) {
            let mut arrived = Vec::new();
            for (index, token) in self.tokens.iter_mut().enumerate() {
                if token.place == Place::Pending && token.activates.is_some_and(|a| a <= at) {
                    token.place = Place::Live;
                    arrived.push(index);
                }
            }
            self.pay(arrived);
            let ended: Vec<u64> = self.holds.iter().filter(|(_, end)| *end <= at).map(|(id, _)| *id).collect();
            for id in ended {
                self.release(id, at);
            }
            self.expire(at);
        }
    }

    fn expire(&mut self, at: Millis) {
        for token in &mut self.tokens {
            if token.place == Place::Live && token.expires <= at {
                token.place = Place::Expired;
            }
        }
    }

    pub fn next_due(&self) -> Option<Millis> {
        let tokens = self.tokens.iter().filter_map(|token| match token.place {
            Place::Pending => token.activates,
            Place::Live if token.expires != NEVER => Some(token.expires),
            _ => None,
        });
        tokens.chain(self.holds.iter().map(|(_, end)| *end)).min()
    }

    /// Points that have just become available pay what is owed, earliest expiry first.
    fn pay(&mut self, mut arrived: Vec<usize>) {
        arrived.sort_by_key(|index| self.tokens[*index].expires);
        for index in arrived {
            if self.debt > 0 {
                self.debt -= 1;
                self.tokens[index].place = Place::Gone;
            }
        }
    }

    fn release(&mut self, id: u64, at: Millis) {
        self.holds.retain(|(hold, _)| *hold != id);
        let mut arrived = Vec::new();
        for (index, token) in self.tokens.iter_mut().enumerate() {
            if token.place == Place::Held(id) {
                token.place = Place::Live;
                if token.expires > at {
                    arrived.push(index);
                }
            }
        }
        self.expire(at);
        self.pay(arrived);
    }

    fn live(&self) -> Vec<usize> {
        let mut live: Vec<usize> = (0..self.tokens.len()).filter(|i| self.tokens[*i].place == Place::Live).collect();
        live.sort_by_key(|index| self.tokens[*index].expires);
        live
    }

    pub fn available(&self) -> i64 {
        self.live().len() as i64 - self.debt
    }

    pub fn level(&self, at: Millis) -> usize {
        let now = month_of(at);
        let sum = |first: i64, last: i64| -> i64 {
            self.spend.iter().filter(|(m, _)| *m >= first && *m <= last).map(|(_, a)| a).sum()
        };
        let year = now.div_euclid(12) * 12;
        let spend = match self.rules.window {
            "lifetime" => sum(0, now),
            "rolling_12_months" => sum(now - 12, now),
            _ => sum(year - 12, year - 1).max(sum(year, now)),
        };
        self.rules.levels.iter().rposition(|(from, _)| *from <= spend).unwrap_or(0)
    }

    fn award_of(amount: i64, multiplier: i64) -> i64 {
        (amount as i128 * multiplier as i128 / 100 / 10_000) as i64
    }

    #[allow(clippy::too_many_arguments)]
    pub fn earn(
        &mut self,
        id: u64,
        points: Option<i64>,
        amount: Option<i64>,
        occurred: Millis,
        expires: Option<Millis>,
        activates: Option<Millis>,
        now: Millis,
    ) -> i64 {
        let multiplier = self.rules.levels[self.level(occurred)].1;
        let points = points.unwrap_or_else(|| Self::award_of(amount.unwrap_or(0), multiplier));
        let day = occurred.div_euclid(DAY_MS);
        let by_rule = self.rules.expiry_days.map_or(NEVER, |days| (day + days + 1) * DAY_MS);
        let expires = expires.unwrap_or(by_rule);
        let pending = (self.rules.pending_days > 0).then(|| (day + self.rules.pending_days) * DAY_MS);
        let activates = activates.or(pending).filter(|at| *at > now);
        let mut arrived = Vec::new();
        for _ in 0..points {
            let place = match activates {
                Some(_) => Place::Pending,
                None if expires <= now => Place::Expired,
                None => Place::Live,
            };
            if place == Place::Live {
                arrived.push(self.tokens.len());
            }
            self.tokens.push(Token { expires, activates, place });
        }
        self.pay(arrived);
        let month = month_of(occurred);
        if let Some(amount) = amount {
            self.spend.push((month, amount));
        }
        self.awards.push(Award {
            id,
            points,
            amount: amount.map(|amount| (amount, multiplier)),
            month,
            expires,
            activates,
            reversed_points: 0,
            reversed_amount: 0,
        });
        points
    }

    pub fn redeem(&mut self, id: u64, points: i64) -> Result<(), Refused> {
        if points > self.available() {
            return Err(Refused::Insufficient);
        }
        let mut taken = Vec::new();
        for index in self.live().into_iter().take(points as usize) {
            self.tokens[index].place = Place::Gone;
            taken.push(self.tokens[index].expires);
        }
        self.spendings.push(Spending { id, taken, given_back: 0 });
        Ok(())
    }

    pub fn deduct(&mut self, points: i64) -> Result<(), Refused> {
        if self.available() - points < self.rules.floor {
            return Err(Refused::Insufficient);
        }
        let live = self.live();
        for index in live.iter().take(points as usize) {
            self.tokens[*index].place = Place::Gone;
        }
        self.debt += (points - live.len() as i64).max(0);
        Ok(())
    }

    pub fn hold(&mut self, id: u64, points: i64, ends: Millis) -> Result<(), Refused> {
        if points > self.available() {
            return Err(Refused::Insufficient);
        }
        for index in self.live().into_iter().take(points as usize) {
            self.tokens[index].place = Place::Held(id);
        }
        self.holds.push((id, ends));
        Ok(())
    }

    pub fn capture(&mut self, hold: u64, id: u64, points: Option<i64>, now: Millis) -> Result<(), Refused> {
        if !self.holds.iter().any(|(open, _)| *open == hold) {
            return Err(Refused::Hold);
        }
        let mut held: Vec<usize> =
            (0..self.tokens.len()).filter(|i| self.tokens[*i].place == Place::Held(hold)).collect();
        held.sort_by_key(|index| self.tokens[*index].expires);
        let points = points.unwrap_or(held.len() as i64);
        if points > held.len() as i64 {
            return Err(Refused::Exceeds);
        }
        let mut taken = Vec::new();
        for index in held.into_iter().take(points as usize) {
            self.tokens[index].place = Place::Gone;
            taken.push(self.tokens[index].expires);
        }
        self.spendings.push(Spending { id, taken, given_back: 0 });
        self.release(hold, now);
        Ok(())
    }

    pub fn void(&mut self, hold: u64, now: Millis) {
        self.release(hold, now);
    }

    /// Returns (change of the balance at once, shortfall).
    pub fn reverse(&mut self, original: u64, part: Part, now: Millis) -> Result<(i64, i64), Refused> {
        if let Some(index) = self.awards.iter().position(|award| award.id == original) {
            return self.reverse_award(index, part);
        }
        let index = self.spendings.iter().position(|spending| spending.id == original).unwrap();
        let spending = &mut self.spendings[index];
        let mut back = spending.taken.clone();
        back.sort_unstable();
        back.reverse();
        let left = back.len() - spending.given_back;
        if left == 0 {
            return Err(Refused::Nothing);
        }
        let points = match part {
            Part::Points(points) => points as usize,
            _ => left,
        };
        if points > left {
            return Err(Refused::Exceeds);
        }
        let given: Vec<Millis> = back[spending.given_back..][..points].to_vec();
        spending.given_back += points;
        let mut arrived = Vec::new();
        for expires in given {
            let place = if expires <= now { Place::Expired } else { Place::Live };
            if place == Place::Live {
                arrived.push(self.tokens.len());
            }
            self.tokens.push(Token { expires, activates: None, place });
        }
        self.pay(arrived);
        Ok((points as i64, 0))
    }

    fn reverse_award(&mut self, index: usize, part: Part) -> Result<(i64, i64), Refused> {
        let award = self.awards[index].clone();
        let points_left = award.points - award.reversed_points;
        let (amount, multiplier) = award.amount.unwrap_or((0, 0));
        let amount_left = amount - award.reversed_amount;
        if points_left == 0 && amount_left == 0 {
            return Err(Refused::Nothing);
        }
        let (mut take, mut off) = (points_left, amount_left);
        match part {
            Part::Rest => {}
            Part::Points(points) if points > points_left => return Err(Refused::Exceeds),
            Part::Points(points) => (take, off) = (points, 0),
            Part::Amount(part) if part > amount_left => return Err(Refused::Exceeds),
            Part::Amount(part) => {
                let kept = Self::award_of(amount_left - part, multiplier);
                (take, off) = ((award.points - kept - award.reversed_points).max(0), part);
            }
        }
        self.awards[index].reversed_points += take;
        self.awards[index].reversed_amount += off;
        self.spend.push((award.month, -off));
        // Own pending tokens, own live tokens, own expired ones, the others in burn order.
        let mut order: Vec<usize> = Vec::new();
        let own = |t: &Token| t.expires == award.expires;
        let all = 0..self.tokens.len();
        order.extend(all.clone().filter(|i| {
            let t = &self.tokens[*i];
            t.place == Place::Pending && own(t) && t.activates == award.activates
        }));
        order.extend(all.clone().filter(|i| self.tokens[*i].place == Place::Live && own(&self.tokens[*i])));
        order.extend(all.filter(|i| self.tokens[*i].place == Place::Expired && own(&self.tokens[*i])));
        order.extend(self.live().into_iter().filter(|i| !own(&self.tokens[*i])));
        let (mut change, mut rest) = (0, take);
        for index in order {
            if rest == 0 {
                break;
            }
            if self.tokens[index].place != Place::Expired {
                change -= 1;
            }
            self.tokens[index].place = Place::Gone;
            rest -= 1;
        }
        let owed = rest.min((-self.debt - self.rules.floor).max(0));
        self.debt += owed;
        Ok((change - owed, rest - owed))
    }

    /// Live lots as (expiry, available, held), in burn order.
    pub fn lots(&self) -> Vec<(Millis, i64, i64)> {
        let mut lots = std::collections::BTreeMap::new();
        for token in &self.tokens {
            let lot: &mut (i64, i64) = match token.place {
                Place::Live | Place::Held(_) => lots.entry(token.expires).or_default(),
                _ => continue,
            };
            match token.place {
                Place::Live => lot.0 += 1,
                _ => lot.1 += 1,
            }
        }
        lots.into_iter().map(|(expires, (available, held))| (expires, available, held)).collect()
    }

    pub fn pending(&self) -> i64 {
        self.tokens.iter().filter(|token| token.place == Place::Pending).count() as i64
    }

    pub fn open_holds(&self) -> Vec<u64> {
        self.holds.iter().map(|(id, _)| *id).collect()
    }
}
