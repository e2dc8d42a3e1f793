//! Who may come in: caps on connections, request rates, and memory for bodies in pieces.
//!
//! All of it is shared by the workers. A connection costs one atomic update (and a short lock where a cap
//! per address is set); a request costs nothing unless a rate is set.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config::Settings;
use crate::metrics::Refused;

/// Keeps a refusal for lack of room for a moment, in which its connection asks for nothing. To read, refuse and answer
/// takes a good part of what serving takes, so clients that ask again at once, whatever `Retry-After` says, would take
/// the time of those that are served. What the request held must have been given back before.
pub async fn hold_back(pause_ms: u64) {
    if pause_ms > 0 {
        // In a box, so that the room that every request takes is not that of a timer.
        Box::pin(tokio::time::sleep(Duration::from_millis(pause_ms))).await;
    }
}

/// The node's gate.
#[derive(Debug)]
pub struct Gate {
    open: AtomicU32,
    open_max: u32,
    by_address: Mutex<HashMap<IpAddr, u32>>,
    by_address_max: u32,
    rate: Option<DefaultKeyedRateLimiter<IpAddr>>,
    body_bytes: AtomicUsize,
    body_bytes_max: usize,
}

impl Gate {
    /// The gate that `settings` describe.
    pub fn new(settings: &Settings) -> Arc<Self> {
        let rate = NonZeroU32::new(settings.requests_per_second_per_address).map(|rate| {
            let burst = NonZeroU32::new(settings.request_burst_per_address).unwrap_or(rate);
            RateLimiter::dashmap(Quota::per_second(rate).allow_burst(burst))
        });
        Arc::new(Self {
            open: AtomicU32::new(0),
            open_max: settings.max_connections,
            by_address: Mutex::default(),
            by_address_max: settings.max_connections_per_address,
            rate,
            body_bytes: AtomicUsize::new(0),
            body_bytes_max: settings.body_buffer_bytes.as_usize(),
        })
    }

    /// Takes a place for a connection from `address`; it is given back when the place is dropped.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Refused> {
        let below = |open: u32| (open < self.open_max).then(|| open + 1);
        if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_err() {
            return Err(Refused::Connections);
        }
        // From here on the place gives the count back, also when the address is refused.
        let mut place = Place { gate: self.clone(), address: None };
        if self.by_address_max > 0 {
            let address = source(address);
            let mut counts = self.addresses();
            let count = counts.entry(address).or_insert(0);
            if *count >= self.by_address_max {
                drop(counts);
                return Err(Refused::Address);
            }
            *count += 1;
            place.address = Some(address);
        }
        Ok(place)
    }

    /// Counts a request from `address`; an error is the whole seconds to wait.
    pub fn count_request(&self, address: IpAddr) -> Result<(), u32> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check_key(&source(address)).map_err(|refusal| {
            let wait = refusal.wait_time_from(DefaultClock::default().now());
            u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
        })
    }

    /// Forgets addresses whose rate is full again; a keyed limiter forgets nothing by itself.
    pub fn forget_idle_addresses(&self) {
        if let Some(rate) = &self.rate {
            rate.retain_recent();
            rate.shrink_to_fit();
        }
    }

    /// Reserves memory for a body in pieces; `None` when there is none left.
    pub fn reserve_body(&self, bytes: usize) -> Option<BodyReservation<'_>> {
        let below = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.body_bytes_max);
        self.body_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).ok()?;
        Some(BodyReservation { gate: self, bytes })
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut counts = self.gate.addresses();
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

/// Memory of a body in pieces.
#[derive(Debug)]
pub struct BodyReservation<'a> {
    gate: &'a Gate,
    bytes: usize,
}

impl Drop for BodyReservation<'_> {
    fn drop(&mut self) {
        self.gate.body_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What counts as one source: an IPv4 address, or the /64 that one IPv6 subscriber has.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::ByteSize;

    const HOME: &str = "10.0.0.1";

    #[test]
    fn places_are_counted_and_given_back() {
        let settings = Settings { max_connections: 3, max_connections_per_address: 2, ..Settings::default() };
        let gate = Gate::new(&settings);
        let home = || gate.enter(HOME.parse().unwrap());
        let first = home().unwrap();
        let _second = home().unwrap();
        assert_eq!(home().unwrap_err(), Refused::Address);
        let _other = gate.enter("2001:db8:1:1::1".parse().unwrap()).unwrap();
        assert_eq!(gate.enter("2001:db8:1:1::2".parse().unwrap()).unwrap_err(), Refused::Connections);
        drop(first);
        let again = home().unwrap();
        drop((again, _second, _other));
        assert_eq!(gate.open.load(Ordering::Relaxed), 0);
        assert!(gate.addresses().is_empty());
    }

    #[test]
    fn one_v6_subscriber_is_one_source() {
        assert_eq!(source("::ffff:10.0.0.1".parse().unwrap()), HOME.parse::<IpAddr>().unwrap());
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }

    #[test]
    fn rates_and_bodies_are_bounded() {
        let settings = Settings {
            requests_per_second_per_address: 1,
            request_burst_per_address: 2,
            body_buffer_bytes: ByteSize(100),
            ..Settings::default()
        };
        let gate = Gate::new(&settings);
        let count = |address: &str| gate.count_request(address.parse().unwrap());
        assert_eq!((count(HOME), count(HOME), count(HOME)), (Ok(()), Ok(()), Err(1)));
        assert_eq!(count("10.0.0.2"), Ok(()));
        gate.forget_idle_addresses();
        assert_eq!(count(HOME), Err(1));
        let reserved = gate.reserve_body(60).unwrap();
        assert!(gate.reserve_body(41).is_none());
        drop(reserved);
        assert!(gate.reserve_body(100).is_some());
        assert!(gate.reserve_body(usize::MAX).is_none());
    }
}
