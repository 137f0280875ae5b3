//! A node's clock as its agent sees it: monotonic, and otherwise as bad as clocks get.

use std::time::Duration;

use plimsoll_core::time::Timestamp;

/// A node's monotonic clock. It may be coarse, stand still and jump forward, and begins anew with each process; it
/// never goes back, which the operating system promises.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// When its process began, in the world's time.
    began: Timestamp,
    /// What it showed then, and by how much it jumped forward since.
    ahead: Duration,
    /// It shows multiples of this, in nanoseconds.
    grain: u64,
    /// Until when, in the world's time, it stands still.
    stands_until: Timestamp,
    /// What it showed last.
    shown: Timestamp,
}

impl Clock {
    pub(super) fn new(grain: Duration) -> Clock {
        Clock {
            began: Timestamp::ZERO,
            ahead: Duration::ZERO,
            grain: (grain.as_nanos() as u64).max(1),
            stands_until: Timestamp::ZERO,
            shown: Timestamp::ZERO,
        }
    }

    /// Begins anew, for a new process. It shows `first`, a multiple of its grain.
    pub(super) fn restart(&mut self, world: Timestamp, first: Duration) {
        let shown = Timestamp::from_duration(first);
        *self = Clock { began: world, ahead: first, shown, stands_until: world, ..self.clone() };
    }

    /// What it shows.
    pub(super) fn read(&mut self, world: Timestamp) -> Timestamp {
        if world >= self.stands_until {
            let nanos = (Timestamp::from_duration(self.ahead) + world.since(self.began)).as_nanos();
            self.shown = self.shown.max(Timestamp::from_nanos(nanos / self.grain * self.grain));
        }
        self.shown
    }

    pub(super) fn jump(&mut self, by: Duration) {
        self.ahead += by;
    }

    pub(super) fn stand_still(&mut self, until: Timestamp) {
        self.stands_until = self.stands_until.max(until);
    }

    /// When, in the world's time, it will show `local` or more; not before `world`.
    pub(super) fn when(&self, world: Timestamp, local: Timestamp) -> Timestamp {
        if local == Timestamp::NEVER {
            return local;
        }
        let shown = Timestamp::from_nanos(local.as_nanos().div_ceil(self.grain).saturating_mul(self.grain));
        let at = self.began + shown.since(Timestamp::from_duration(self.ahead));
        at.max(world).max(self.stands_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn it_never_goes_back_and_says_when_it_will_show_a_time() {
        let mut clock = Clock::new(Duration::from_millis(10));
        clock.restart(at(1000), Duration::from_secs(3));
        assert_eq!((clock.read(at(1000)), clock.read(at(1019))), (at(3000), at(3010)));
        assert_eq!(clock.when(at(1019), at(3011)), at(1020));
        clock.stand_still(at(2000));
        assert_eq!((clock.read(at(1999)), clock.when(at(1500), at(3011))), (at(3010), at(2000)));
        clock.jump(Duration::from_mins(1));
        assert_eq!(clock.read(at(2000)), at(64_000));
        assert_eq!(clock.when(at(2000), at(64_500)), at(2500));
        assert_eq!(clock.when(at(2000), at(64_500)), clock.when(at(2000), at(64_491)));
        clock.restart(at(5000), Duration::ZERO);
        assert_eq!((clock.read(at(5000)), clock.when(at(5000), Timestamp::NEVER)), (at(0), Timestamp::NEVER));
    }
}
