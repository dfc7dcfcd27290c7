//! How many requests a service can work on at once, found out from how long its answers take. Pure arithmetic: no clock, no locks.
//!
//! The gradient controller of Envoy's adaptive concurrency filter, which descends from Netflix's concurrency-limits. Samples are gathered
//! into windows; after each,
//!
//! ```text
//! gradient  = clamp(tolerance * unloaded / measured, 0.5, 2)
//! new limit = clamp(gradient * limit + sqrt(limit), min, max)
//! ```
//!
//! where `unloaded` is the latency without a queue and `measured` the window's mean. The square root is the queue that is allowed
//! always, without which a limit could not grow. A limit grows only while at least half of it is used: an idle service proves nothing.
//! A window in which more than a tenth of the requests failed shrinks the limit to nine tenths, whatever the latency: a service that
//! fails fast is not fast.
//!
//! A service that is asked by ever more clients would seem ever slower without load as well, so `unloaded` cannot just be the least
//! that was ever seen, nor an average. From time to time the limit is halved for as long as it takes to measure anew.

/// Samples that make a window, if there are as many in time.
const WINDOW_SAMPLES: u32 = 10;
/// A window's shortest and longest time, in nanoseconds.
const WINDOW_MIN: u64 = 50_000_000;
const WINDOW_MAX: u64 = 1_000_000_000;

/// What an operator says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub min: u32,
    pub max: u32,
    pub initial: u32,
    /// How much longer than without load answers may take: 1.5 is half as long again.
    pub tolerance: f64,
    /// Nanoseconds between two measurements of the latency without load.
    pub probe_interval: u64,
}

#[derive(Debug, Default)]
struct Window {
    began: u64,
    samples: u32,
    failures: u32,
    sum: u64,
    most_in_flight: u32,
}

/// The limit, and what it was found from.
#[derive(Debug)]
pub struct Gradient {
    settings: Settings,
    limit: f64,
    /// Nanoseconds; 0 before the first window.
    unloaded: f64,
    window: Window,
    next_probe: u64,
    /// While the limit is halved to measure the unloaded latency: the limit to come back to.
    probing: Option<f64>,
}

impl Gradient {
    pub fn new(settings: Settings, now: u64) -> Self {
        Gradient {
            settings,
            limit: f64::from(settings.initial),
            unloaded: 0.0,
            window: Window { began: now, ..Window::default() },
            next_probe: now.saturating_add(settings.probe_interval),
            probing: None,
        }
    }

    /// A reload brings other bounds; what was learnt stays.
    pub fn obey(&mut self, settings: Settings) {
        if self.settings != settings {
            self.settings = settings;
            self.limit = self.clamp(self.limit);
        }
    }

    /// How many may be under way now.
    pub fn limit(&self) -> u32 {
        // Between the bounds of the settings, which are whole numbers of at most 32 bits.
        self.limit as u32
    }

    /// The latency without load in nanoseconds, as far as it is known.
    pub fn unloaded(&self) -> u64 {
        self.unloaded as u64
    }

    /// One request ended. `latency` in nanoseconds, `None` if it failed; `in_flight` with itself.
    pub fn sample(&mut self, latency: Option<u64>, in_flight: u32, now: u64) {
        // Those that were admitted under the old limit would tell of the old load.
        if self.probing.is_some() && in_flight > self.limit() {
            return;
        }
        let window = &mut self.window;
        window.samples += 1;
        window.most_in_flight = window.most_in_flight.max(in_flight);
        match latency {
            Some(latency) => window.sum = window.sum.saturating_add(latency),
            None => window.failures += 1,
        }
        let age = now.saturating_sub(window.began);
        if (window.samples >= WINDOW_SAMPLES && age >= WINDOW_MIN) || age >= WINDOW_MAX {
            let window = std::mem::replace(&mut self.window, Window { began: now, ..Window::default() });
            self.turn(&window, now);
        }
    }

    fn turn(&mut self, window: &Window, now: u64) {
        let good = window.samples - window.failures;
        let measured = (good > 0).then(|| window.sum as f64 / f64::from(good));
        if let (Some(before), Some(measured)) = (self.probing, measured) {
            self.unloaded = measured;
            self.limit = self.clamp(before);
            self.probing = None;
            return;
        }
        if window.failures * 10 > window.samples {
            self.limit = self.clamp(self.limit * 0.9);
            return;
        }
        let Some(measured) = measured else { return };
        if self.unloaded == 0.0 || measured < self.unloaded {
            self.unloaded = measured;
        }
        if now >= self.next_probe {
            self.next_probe = now.saturating_add(self.settings.probe_interval);
            self.probing = Some(self.limit);
            self.limit = self.clamp(self.limit / 2.0);
            return;
        }
        let gradient = (self.settings.tolerance * self.unloaded / measured.max(1.0)).clamp(0.5, 2.0);
        let wanted = gradient * self.limit + self.limit.sqrt();
        let is_used = f64::from(window.most_in_flight) * 2.0 >= self.limit;
        if wanted < self.limit || is_used {
            self.limit = self.clamp(wanted);
        }
    }

    fn clamp(&self, limit: f64) -> f64 {
        limit.clamp(f64::from(self.settings.min), f64::from(self.settings.max.max(self.settings.min)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SETTINGS: Settings = Settings { min: 2, max: 1000, initial: 20, tolerance: 1.5, probe_interval: 30_000 * MS };

    /// A service with so many places, that takes 10 ms for each request and queues the rest, under as many requests as are let in.
    fn drive(gradient: &mut Gradient, places: u32, offered: u32, from: u64, windows: u32) -> u64 {
        let mut now = from;
        for _ in 0..windows {
            now += WINDOW_MIN;
            for _ in 0..WINDOW_SAMPLES {
                let in_flight = offered.min(gradient.limit());
                let latency = 10 * MS * u64::from(in_flight.max(places)) / u64::from(places);
                gradient.sample(Some(latency), in_flight, now);
            }
        }
        now
    }

    #[test]
    fn finds_what_a_service_can_do_and_follows_it() {
        let mut gradient = Gradient::new(SETTINGS, 0);
        let now = drive(&mut gradient, 50, 500, 0, 200);
        assert!((50..=110).contains(&gradient.limit()), "{}", gradient.limit());
        let now = drive(&mut gradient, 10, 500, now, 900);
        assert!((10..=30).contains(&gradient.limit()), "{}", gradient.limit());
        drive(&mut gradient, 50, 500, now, 900);
        assert!((50..=110).contains(&gradient.limit()), "{}", gradient.limit());
        assert!((9 * MS..=13 * MS).contains(&gradient.unloaded()));
    }

    #[test]
    fn an_idle_service_proves_nothing() {
        let mut gradient = Gradient::new(SETTINGS, 0);
        drive(&mut gradient, 50, 3, 0, 100);
        assert_eq!(gradient.limit(), 20);
    }

    #[test]
    fn failures_shrink_the_limit_down_to_its_least() {
        let mut gradient = Gradient::new(SETTINGS, 0);
        for n in 0..1000 {
            gradient.sample(None, 20, n * 10 * MS);
        }
        assert_eq!(gradient.limit(), 2);
    }

    #[test]
    fn a_probe_learns_that_a_service_became_slower_for_good() {
        let mut gradient = Gradient::new(Settings { probe_interval: 5_000 * MS, ..SETTINGS }, 0);
        let mut now = drive(&mut gradient, 50, 500, 0, 100);
        for _ in 0..4000 {
            now += WINDOW_MIN / 10;
            gradient.sample(Some(40 * MS), 500.min(gradient.limit()), now);
        }
        assert!((39 * MS..=41 * MS).contains(&gradient.unloaded()), "{}", gradient.unloaded());
    }

    #[test]
    fn a_reload_brings_other_bounds() {
        let mut gradient = Gradient::new(SETTINGS, 0);
        gradient.obey(Settings { max: 10, ..SETTINGS });
        assert_eq!(gradient.limit(), 10);
    }
}
