//! What kind of world a seed makes: its size, its pace, its program, and how much goes wrong in it.

use meed_schemas::time::{DAY_MS, Millis, days_from_civil};

const HOUR_MS: i64 = 3_600_000;

use meed_schemas::program::Document;

use crate::config::RETENTION_DAYS_MIN;
use crate::random::{Random, mix};
use crate::shard::ShardLimits;

/// Documents of the program among which clients choose.
pub(super) const VERSIONS: u32 = 4;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) seed: u64,
    pub(super) shards: u16,
    pub(super) workers: u16,
    pub(super) accounts: usize,
    pub(super) segment_bytes: u64,
    pub(super) prepared_segments: usize,
    /// Crashes and recoveries.
    pub(super) cycles: usize,
    /// Events between two of them, at most.
    pub(super) events: usize,
    pub(super) checkpoint_interval_ms: i64,
    pub(super) checkpoint_records: u64,
    pub(super) resident_bytes: usize,
    pub(super) unbounded_loads_per_tick: usize,
    pub(super) pack_after_ms: i64,
    pub(super) settle_gap_days: i64,
    pub(super) clock_jump_ms: i64,
    /// How old records have to be to go; `None` keeps all.
    pub(super) retention_ms: Option<i64>,
    pub(super) pack: bool,
    /// Whether it publishes.
    pub(super) publishes: bool,
    /// Whether the store has no room for a checkpoint now and then.
    pub(super) is_cramped: bool,
    pub(super) start_ms: Millis,
    /// How far one event may move the clocks.
    pub(super) stride_ms: i64,
    /// Percent of the requests that name a key of another one.
    pub(super) reuse_percent: u64,
    /// The first version of the program.
    pub(super) rules: Rules,
}

/// A version of the program, small enough to be counted with the fingers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) zone: Zone,
    /// Points for each so many minor units.
    pub(super) points: i64,
    pub(super) per_amount: i64,
    pub(super) rounding: &'static str,
    pub(super) window: &'static str,
    /// (name, from in minor units, multiplier in ten-thousandths).
    pub(super) levels: Vec<(&'static str, i64, i64)>,
    pub(super) expiry: Expiry,
    pub(super) pending_days: i64,
    pub(super) floor: i64,
    pub(super) hold_seconds: i64,
    pub(super) late_days: Option<i64>,
    pub(super) auto_enroll: bool,
}

/// A time zone without summer time, so that a model can do without a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    Utc,
    Jakarta,
}

/// When points go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    None,
    Days(i64),
    /// Months, to the end of the month or not.
    Months(i64, bool),
}

impl Zone {
    pub(super) fn offset_ms(self) -> Millis {
        match self {
            Self::Utc => 0,
            Self::Jakarta => 7 * HOUR_MS,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Utc => "UTC",
            Self::Jakarta => "Asia/Jakarta",
        }
    }
}

impl Profile {
    /// The world of a seed.
    pub(super) fn of(seed: u64) -> Self {
        let mut random = Random(mix(seed ^ 0x6d65_6564));
        let random = &mut random;
        let shards = *random.pick(&[1, 1, 2, 3]);
        let is_long = random.chance(6);
        let start_day = days_from_civil(2026, *random.pick(&[1, 2, 4, 12]), 27) + random.between(0, 5);
        let zone = *random.pick(&[Zone::Utc, Zone::Jakarta]);
        let resident_bytes = *random.pick(&[0, 2_000, 1 << 20, 1 << 20]);
        // A world of ages, whose records are removed.
        let is_old = random.chance(15);
        let is_tiny = is_old || random.chance(40);
        Self {
            seed,
            shards,
            workers: if shards > 1 && random.chance(50) { 2 } else { 1 },
            accounts: *random.pick(&[1, 1, 2, 3, 6]),
            segment_bytes: if is_tiny {
                *random.pick(&[5 << 10, 8 << 10])
            } else {
                *random.pick(&[16 << 10, 32 << 10])
            },
            prepared_segments: *random.pick(&[1, 2]),
            cycles: if is_long { 8 } else { random.between(1, 4) as usize },
            events: if is_long { 260 } else { *random.pick(&[15, 40, 70]) },
            checkpoint_interval_ms: *random.pick(&[50, 300, 300, 5_000, 1_000_000]),
            checkpoint_records: *random.pick(&[1, 8, 1_000]),
            resident_bytes,
            pack_after_ms: *random.pick(&[1, 200, 15_000]),
            settle_gap_days: if is_old { 4_000 } else { *random.pick(&[31, 31, 4_000]) },
            clock_jump_ms: *random.pick(&[60_000, 60_000, HOUR_MS]),
            start_ms: start_day * DAY_MS + random.between(0, DAY_MS - 1),
            retention_ms: is_old.then_some(i64::from(RETENTION_DAYS_MIN) * DAY_MS),
            pack: random.chance(70),
            // Of sources of their own, so that other worlds are as they would be without these.
            is_cramped: Random(mix(seed ^ 0x726f_6f6d)).chance(25),
            unbounded_loads_per_tick: *Random(mix(seed ^ 0x6c6f_6164)).pick(&[1, 16]),
            publishes: Random(mix(seed ^ 0x7075_626b)).chance(if is_old { 70 } else { 35 }),
            stride_ms: if is_old { 300 * DAY_MS } else { *random.pick(&[200, 60_000, 20 * HOUR_MS, 20 * DAY_MS]) },
            reuse_percent: *random.pick(&[2, 10]),
            rules: Rules::of(random, zone),
        }
    }

    /// Bounds of its shards.
    pub(super) fn limits(&self) -> ShardLimits {
        ShardLimits {
            resident_bytes: self.resident_bytes,
            filter_bytes: 1 << 18,
            checkpoint_records: self.checkpoint_records,
            checkpoint_interval_ms: self.checkpoint_interval_ms,
            checkpoint_rows: 512,
            checkpoint_step: 128,
            pack_after_ms: self.pack_after_ms,
            settled_per_tick: 64,
            unbounded_loads_per_tick: self.unbounded_loads_per_tick,
        }
    }

    /// Every version of the program that a client may send, with its canonical document.
    pub(super) fn versions(&self) -> Vec<(String, Rules)> {
        let canonical =
            |rules: &Rules| Document::parse(rules.document().as_bytes()).ok().map(|d| d.to_canonical_json());
        (0..VERSIONS).map(|n| self.version(n)).filter_map(|rules| Some((canonical(&rules)?, rules))).collect()
    }

    /// A further version of the program.
    pub(super) fn version(&self, number: u32) -> Rules {
        if number == 0 {
            return self.rules.clone();
        }
        Rules::of(&mut Random(mix(self.seed).wrapping_add(u64::from(number))), self.rules.zone)
    }
}

impl Rules {
    fn of(random: &mut Random, zone: Zone) -> Self {
        let high = random.between(1_000, 9_000);
        let levels = match random.below(3) {
            0 => vec![("A", 0, 10_000)],
            1 => vec![("A", 0, 10_000), ("B", high, 15_000)],
            _ => vec![("A", 0, 10_000), ("B", high, 15_000), ("C", high * 2, *random.pick(&[20_000, 3_333]))],
        };
        let pending_days = if random.chance(35) { random.between(1, 3) } else { 0 };
        let expiry = match random.below(5) {
            0 => Expiry::None,
            1 => Expiry::Days(random.between(4, 9)),
            2 => Expiry::Days(random.between(20, 400)),
            3 => Expiry::Months(random.between(1, 3), false),
            _ => Expiry::Months(random.between(1, 3), true),
        };
        Self {
            zone,
            points: random.between(1, 3),
            per_amount: *random.pick(&[100, 250]),
            rounding: *random.pick(&["down", "half_up", "half_even", "up"]),
            window: *random.pick(&["lifetime", "calendar_year", "rolling_12_months"]),
            levels,
            expiry,
            pending_days,
            floor: *random.pick(&[0, 0, -15, -1_000]),
            hold_seconds: *random.pick(&[1, 900, 604_800]),
            late_days: *random.pick(&[None, Some(30)]),
            auto_enroll: !random.chance(10),
        }
    }

    /// The document.
    pub(super) fn document(&self) -> String {
        let levels = self.levels.iter().map(|(name, from, multiplier)| {
            format!(
                r#"{{"name":"{name}","from":"{}.{:02}","multiplier":"{}.{:04}"}}"#,
                from / 100,
                from % 100,
                multiplier / 10_000,
                multiplier % 10_000
            )
        });
        let expiry = match self.expiry {
            Expiry::None => r#""none""#.to_owned(),
            Expiry::Days(days) => format!(r#"{{"days":{days}}}"#),
            Expiry::Months(months, false) => format!(r#"{{"months":{months},"round_to":"day"}}"#),
            // To the end of the month, where it does not say.
            Expiry::Months(months, true) => format!(r#"{{"months":{months}}}"#),
        };
        let negative = match self.floor {
            0 => r#"{"policy":"refuse"}"#.to_owned(),
            floor => format!(r#"{{"policy":"debt","floor":{floor}}}"#),
        };
        format!(
            r#"{{"name":"p","time_zone":"{}","currency":"USD",
            "earning":{{"points":{},"per_amount":"{}.{:02}","rounding":"{}"}},
            "tiers":{{"window":"{}","levels":[{}]}},"expiry":{expiry},"pending":{{"days":{}}},
            "negative_balance":{negative},"holds":{{"default_ttl_seconds":{},"max_ttl_seconds":604800}},
            "late_days_max":{},"auto_enroll":{}}}"#,
            self.zone.name(),
            self.points,
            self.per_amount / 100,
            self.per_amount % 100,
            self.rounding,
            self.window,
            levels.collect::<Vec<_>>().join(","),
            self.pending_days,
            self.hold_seconds,
            self.late_days.map_or("null".to_owned(), |days| days.to_string()),
            self.auto_enroll
        )
    }
}
