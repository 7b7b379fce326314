//! Trying again: how often, and after which pauses. What may be tried again is decided by an
//! error's kind alone.

use std::time::Duration;

use crate::error::Error;

/// How often something is tried, and how long it is waited in between: from the first pause to the
/// longest, each twice the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    attempts_max: Option<u32>,
    pause_min: Duration,
    pause_max: Duration,
}

impl Retry {
    /// At most `attempts_max` attempts, the first one counted.
    pub const fn times(attempts_max: u32, pause_min: Duration, pause_max: Duration) -> Self {
        Self { attempts_max: Some(attempts_max), pause_min, pause_max }
    }

    /// Until it succeeds, or whoever waits for it gives up.
    pub const fn for_ever(pause_min: Duration, pause_max: Duration) -> Self {
        Self { attempts_max: None, pause_min, pause_max }
    }

    /// `seed` shortens each pause by up to a half, so that racing writers part.
    pub fn begin(self, seed: u128) -> Attempts {
        Attempts { policy: self, seed: seed as u64, made: 1 }
    }
}

/// Attempts that are under way, of which the first needs no pause.
#[derive(Debug)]
pub struct Attempts {
    policy: Retry,
    seed: u64,
    made: u32,
}

impl Attempts {
    /// How long to wait before the next attempt; `None` if there is none.
    pub fn pause(&mut self) -> Option<Duration> {
        if self.policy.attempts_max.is_some_and(|max| self.made >= max) {
            return None;
        }
        let doubled = self.policy.pause_min.saturating_mul(1 << (self.made - 1).min(30));
        let longest = doubled.min(self.policy.pause_max);
        self.made += 1;
        if self.seed == 0 {
            return Some(longest);
        }
        let mixed =
            self.seed.wrapping_add(u64::from(self.made)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let part = (mixed >> 32) as f64 / f64::from(u32::MAX);
        Some(longest.mul_f64(0.5 + part / 2.0))
    }

    /// Waits for the next attempt; false if there is none.
    pub async fn wait(&mut self) -> bool {
        let Some(pause) = self.pause() else { return false };
        tokio::time::sleep(pause).await;
        true
    }

    /// Waits for the next attempt at `what`, and says so in the log; false if `error` will not pass
    /// by itself, or no attempt is left.
    pub async fn wait_after(&mut self, what: &str, error: &Error) -> bool {
        if !error.kind.is_retryable() {
            return false;
        }
        let Some(pause) = self.pause() else { return false };
        let cause = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(what, %error, cause, pause_ms = pause.as_millis(), "it is tried again");
        tokio::time::sleep(pause).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let mut attempts = Retry::times(5, 10 * MS, 35 * MS).begin(0);
        let pauses: Vec<_> = std::iter::from_fn(|| attempts.pause()).collect();
        assert_eq!(pauses, [10 * MS, 20 * MS, 35 * MS, 35 * MS]);
        let mut attempts = Retry::for_ever(10 * MS, 35 * MS).begin(0);
        assert_eq!((0..100).filter_map(|_| attempts.pause()).last(), Some(35 * MS));
    }

    #[test]
    fn a_seed_shortens_pauses_by_half_at_most_and_parts_writers() {
        let pauses = |seed| {
            let mut attempts = Retry::times(60, 10 * MS, 400 * MS).begin(seed);
            std::iter::from_fn(move || attempts.pause()).collect::<Vec<_>>()
        };
        let (plain, one, other) = (pauses(0), pauses(1), pauses(2));
        assert!(one.iter().zip(&plain).all(|(own, full)| own <= full && *own * 2 >= *full));
        assert!(one.iter().zip(&other).filter(|(one, other)| one != other).count() > 50);
    }

    #[tokio::test]
    async fn only_what_may_pass_is_tried_again() {
        let tried = async |kind| {
            let mut attempts = Retry::times(3, MS, MS).begin(0);
            let mut made = 1;
            while attempts.wait_after("it", &Error::new(kind, "it failed")).await {
                made += 1;
            }
            made
        };
        assert_eq!(tried(ErrorKind::Unavailable).await, 3);
        assert_eq!(tried(ErrorKind::Invalid).await, 1);
    }
}
