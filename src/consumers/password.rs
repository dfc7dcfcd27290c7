//! Passwords: their hashes, and checking them without standing still.
//!
//! Checking a password is made to be slow. So it happens on threads of its own, a few at a time, and what was found right is remembered
//! for a while, under a digest that is of no use to anybody else.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, watch};

/// How many right passwords are remembered.
const REMEMBERED: usize = 10_000;
/// The longest that a request waits for its turn and the check.
const PATIENCE: Duration = Duration::from_secs(10);
/// More memory than this, in KiB, is not spent on one check.
const MOST_MEMORY: u32 = 256 * 1024;
const MOST_PASSES: u32 = 16;
const MOST_LANES: u32 = 16;
/// Memory in KiB times passes: the least that OWASP's recommendations come to.
const LEAST_WORK: u64 = 35_840;

/// A password's hash, in the PHC string format: `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`.
#[derive(Clone)]
pub struct Hashed {
    hash: Arc<PasswordHash>,
    /// Whatever the hash says, for telling two of them apart.
    print: [u8; 32],
    work: u64,
}

impl Hashed {
    /// # Errors
    /// It is no Argon2id hash, or one that takes more than 256 MiB, 16 passes or 16 lanes. The text does not repeat it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "a password's hash begins with `$argon2id$v=19$m=`, as `portcullis hash-password` prints it";
        let hash = PasswordHash::new(text).map_err(|_| FORM)?;
        let params = Params::try_from(&hash).map_err(|_| FORM)?;
        let complete = hash.algorithm == Algorithm::Argon2id.ident() && hash.salt.is_some() && hash.hash.is_some();
        if !complete || hash.version != Some(u32::from(argon2::Version::V0x13)) {
            return Err(FORM);
        }
        if params.m_cost() > MOST_MEMORY || params.t_cost() > MOST_PASSES || params.p_cost() > MOST_LANES {
            return Err("this hash costs more than 256 MiB of memory, 16 passes or 16 lanes");
        }
        let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
        Ok(Hashed { print: *blake3::hash(text.as_bytes()).as_bytes(), hash: Arc::new(hash), work })
    }

    /// Whether guessing against a stolen hash would be too cheap.
    pub fn is_weak(&self) -> bool {
        self.work < LEAST_WORK
    }

    pub fn work(&self) -> u64 {
        self.work
    }

    /// A hash that takes as long to check, of no password.
    pub fn decoy(&self) -> Option<Self> {
        let mut random = [0; 48];
        aws_lc_rs::rand::fill(&mut random).ok()?;
        let (salt, output) = random.split_at_checked(16)?;
        let hash =
            PasswordHash { salt: Some(Salt::new(salt).ok()?), hash: Some(Output::new(output).ok()?), ..(*self.hash).clone() };
        Some(Hashed { hash: Arc::new(hash), print: *blake3::hash(&random).as_bytes(), work: self.work })
    }

    /// Takes tens of milliseconds.
    fn is(&self, password: &[u8]) -> bool {
        PasswordVerifier::<PasswordHash>::verify_password(&Argon2::default(), password, &self.hash).is_ok()
    }
}

impl fmt::Debug for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

/// The hash to configure for a password: Argon2id with 19 MiB and 2 passes.
///
/// # Errors
/// The system has no random bytes.
pub fn hash(password: &[u8]) -> Result<String, String> {
    let hashed: PasswordHash = Argon2::default().hash_password(password).map_err(|error| error.to_string())?;
    Ok(hashed.to_string())
}

/// A name and a password that belong together, as a digest under a key that only this process knows.
pub type Digest = [u8; 32];

/// There are more checks waiting than may, or this one took too long.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

type Outcome = watch::Receiver<Option<bool>>;

/// Checks passwords, some at a time.
pub struct Checks {
    /// The checks that may run at once.
    permits: Arc<Semaphore>,
    /// How many may run or wait.
    most: usize,
    key: [u8; 32],
    /// Checks under way. Whoever asks for the same waits for the one that there is.
    flights: Mutex<HashMap<Digest, Outcome>>,
    /// What was right, and when it was found so. How long that counts is the asking policy's to say.
    right: Cache<Digest, Instant>,
}

impl Checks {
    /// `at_once` checks run, and `waiting` more may wait.
    pub fn new(at_once: usize, waiting: usize) -> Self {
        let mut key = [0; 32];
        // Without random bytes nothing else in the process works, either; a fixed key would still keep passwords apart.
        let _ = aws_lc_rs::rand::fill(&mut key);
        Checks {
            permits: Arc::new(Semaphore::new(at_once)),
            most: at_once + waiting,
            key,
            flights: Mutex::default(),
            right: Cache::new(REMEMBERED),
        }
    }

    pub fn digest(&self, hashed: &Hashed, name: &[u8], password: &[u8]) -> Digest {
        let mut digest = blake3::Hasher::new_keyed(&self.key);
        digest.update(&hashed.print).update(&(name.len() as u64).to_be_bytes()).update(name).update(password);
        *digest.finalize().as_bytes()
    }

    /// Whether this was found right not longer than `memory` ago.
    pub fn knows(&self, digest: &Digest, memory: Duration) -> bool {
        self.right.get(digest).is_some_and(|since| {
            let good = since.elapsed() < memory;
            if !good {
                self.right.remove(digest);
            }
            good
        })
    }

    /// Whether this is the password. Remembers it for `memory` if it is. Whoever stops waiting leaves nothing behind: a check that
    /// nobody waits for any more is not begun.
    ///
    /// # Errors
    /// Too many others are being checked.
    pub async fn check(
        self: &Arc<Self>,
        digest: Digest,
        hashed: &Hashed,
        password: &[u8],
        memory: Duration,
    ) -> Result<bool, Busy> {
        let mut outcome = self.join(digest, hashed, password, memory)?;
        match tokio::time::timeout(PATIENCE, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(right)) => right.ok_or(Busy),
            // It was given up, or took too long.
            _ => Err(Busy),
        }
    }

    fn join(self: &Arc<Self>, digest: Digest, hashed: &Hashed, password: &[u8], memory: Duration) -> Result<Outcome, Busy> {
        let mut flights = self.flights.lock();
        if let Some(under_way) = flights.get(&digest) {
            return Ok(under_way.clone());
        }
        if flights.len() >= self.most {
            return Err(Busy);
        }
        let (tell, outcome) = watch::channel(None);
        flights.insert(digest, outcome.clone());
        let flight = Flight { checks: self.clone(), digest, tell };
        tokio::spawn(flight.fly(hashed.clone(), password.to_vec(), memory));
        Ok(outcome)
    }
}

/// One check under way. Off the list when dropped, whatever becomes of it.
struct Flight {
    checks: Arc<Checks>,
    digest: Digest,
    tell: watch::Sender<Option<bool>>,
}

impl Flight {
    async fn fly(self, hashed: Hashed, password: Vec<u8>, memory: Duration) {
        let Ok(permit) = self.checks.permits.clone().acquire_owned().await else { return };
        {
            // Under the lock, so that nobody joins in between. One receiver is the list's own.
            let mut flights = self.checks.flights.lock();
            if self.tell.receiver_count() <= 1 {
                flights.remove(&self.digest);
                return;
            }
        }
        let checked = tokio::task::spawn_blocking(move || {
            let right = hashed.is(&password);
            drop(permit);
            right
        });
        let Ok(right) = checked.await else { return };
        if right && !memory.is_zero() {
            self.checks.right.insert(self.digest, Instant::now());
        }
        self.tell.send_replace(Some(right));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.checks.flights.lock().remove(&self.digest);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Quick to check, and so no hash for real use.
    pub fn quick(password: &str) -> String {
        let params = argon2::Params::new(8, 1, 1, None).unwrap();
        let hashed: PasswordHash = Argon2::from(params).hash_password(password.as_bytes()).unwrap();
        hashed.to_string()
    }

    #[test]
    fn only_argon2id_within_reason() {
        let good = hash(b"correct horse").unwrap();
        let hashed = Hashed::parse(&good).unwrap();
        assert!(hashed.is(b"correct horse") && !hashed.is(b"wrong horse") && !hashed.is_weak());
        assert!(!format!("{hashed:?}").contains("argon2"));
        let decoy = hashed.decoy().unwrap();
        assert!(!decoy.is(b"correct horse") && decoy.work() == hashed.work() && decoy.print != hashed.print);
        assert!(Hashed::parse(&quick("x")).unwrap().is_weak());
        for bad in [
            "",
            "secret",
            "$2b$12$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234",
            &good.replace("argon2id", "argon2i"),
            &good.replace("v=19", "v=16"),
            &good.replace("m=19456", "m=999999999"),
            &good.replace("t=2", "t=17"),
            &good.replace("p=1", "p=17"),
            good.rsplit_once('$').unwrap().0,
        ] {
            let why = Hashed::parse(bad).unwrap_err();
            assert!(bad.is_empty() || !why.contains(bad), "{bad}: {why}");
        }
    }

    #[tokio::test]
    async fn right_ones_are_remembered_for_a_while() {
        let checks = Arc::new(Checks::new(1, 10));
        let minute = Duration::from_secs(60);
        let hashed = Hashed::parse(&quick("pw")).unwrap();
        let digest = checks.digest(&hashed, b"ada", b"pw");
        assert!(!checks.knows(&digest, minute));
        assert_eq!(checks.check(digest, &hashed, b"pw", minute).await, Ok(true));
        assert!(checks.knows(&digest, minute) && checks.flights.lock().is_empty());
        let changed = Hashed::parse(&quick("pw")).unwrap();
        assert!(!checks.knows(&checks.digest(&changed, b"ada", b"pw"), minute), "another hash, another entry");
        assert!(!checks.knows(&checks.digest(&hashed, b"adap", b"w"), minute));
        let wrong = checks.digest(&hashed, b"ada", b"no");
        assert_eq!(checks.check(wrong, &hashed, b"no", minute).await, Ok(false));
        assert!(!checks.knows(&wrong, minute));
        assert!(!checks.knows(&digest, Duration::ZERO), "a reload that shortens the memory counts at once");
        checks.right.insert(digest, Instant::now().checked_sub(minute).unwrap());
        assert!(!checks.knows(&digest, minute), "its time is over");
    }

    #[tokio::test]
    async fn the_same_is_checked_once_and_too_many_are_refused() {
        let checks = Arc::new(Checks::new(1, 1));
        let hashed = Hashed::parse(&quick("pw")).unwrap();
        let turn = checks.permits.clone().acquire_owned().await.unwrap();
        let start = |name: &'static str| {
            let (checks, hashed) = (checks.clone(), hashed.clone());
            tokio::spawn(async move {
                let digest = checks.digest(&hashed, name.as_bytes(), b"pw");
                checks.check(digest, &hashed, b"pw", Duration::ZERO).await
            })
        };
        let (one, same, other) = (start("a"), start("a"), start("b"));
        while checks.flights.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(start("c").await.unwrap(), Err(Busy));
        other.abort();
        let _ = other.await;
        drop(turn);
        assert_eq!((one.await.unwrap(), same.await.unwrap()), (Ok(true), Ok(true)));
        while !checks.flights.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
