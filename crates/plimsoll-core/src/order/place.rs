//! Where on the circle of steps the intervals lie: one after the other, the largest first that strays little enough
//! there, going back where none does, and beginning at another step where that leads nowhere. The search is our own.
//!
//! When weights change, the intervals stay in their order as long as that is good enough: an endpoint whose interval goes
//! elsewhere forgets how long it has been waiting for its turn.

use std::cmp::Reverse;

use super::Interval;
use super::stray::stray;

/// How many connections the visits of an interval may be away from its exact share, after any number of connections,
/// where it is laid anew. Twice what smooth weighted round robin needs; with 1.8, one list in a hundred has no such
/// places.
pub(super) const MOST_STRAY: f64 = 1.9;
/// The same where it lies already. (With 2.2, four in ten small changes lay a list of 16 anew, with 2.5 one in fourteen.)
pub(super) const MOST_STRAY_KEPT: f64 = 2.5;
/// At how many steps the search begins at most. A list of two to five random weights needs more than eight in one case of
/// thirty, and none of them is enough in one of tens of thousands; longer lists rarely need a second.
const BEGINNINGS: u32 = 256;
/// How many places are tried from one beginning at most, besides two for each interval. Most searches need fewer than
/// three for each interval.
const TRIES: usize = 200;
/// After how many tries there is no other beginning, so that a search is over in milliseconds.
const MOST_TRIES: usize = 8000;

/// What the intervals are laid on.
#[derive(Clone, Copy)]
pub(super) struct Circle {
    pub(super) steps: u32,
    pub(super) offset: u32,
}

impl Circle {
    /// Intervals for these parts of the circle; without a part there is none. Where the search finds nothing they lie
    /// in the order of their size.
    pub(super) fn place(self, parts: &[u32]) -> Vec<Interval> {
        let interval = |(endpoint, &steps)| Interval { endpoint, steps };
        let mut intervals: Vec<Interval> = parts.iter().enumerate().map(interval).collect();
        intervals.retain(|interval| interval.steps > 0);
        intervals.sort_by_key(|interval| Reverse(interval.steps));
        let mut search =
            Search { circle: self, kinds: kinds(&intervals), most: self.times(MOST_STRAY), tries: 0 };
        for beginning in 0..BEGINNINGS {
            // A golden section of the circle apart, so that no two are close.
            let start = (u64::from(beginning) * u64::from(self.steps) * 618 / 1000) as u32 & (self.steps - 1);
            if let Some(order) = search.from(start) {
                let next = |kind: usize| {
                    let of_kind = &mut search.kinds[kind];
                    of_kind.first += 1;
                    intervals[of_kind.first - 1]
                };
                let mut placed = order.into_iter().map(next).collect();
                turn(&mut placed, self.steps - start);
                return placed;
            }
            if search.tries > MOST_TRIES {
                break;
            }
        }
        intervals
    }

    /// The same intervals with new parts, in the same order and beginning with the same step; `None` where one of them
    /// would stray too far, or they are not those of the endpoints that have a part.
    pub(super) fn keep(self, parts: &[u32], last: &[Interval]) -> Option<Vec<Interval>> {
        let (start, order) = match last {
            [first, rest @ ..] if rest.last().is_some_and(|end| end.endpoint == first.endpoint) => {
                (first.steps, rest)
            }
            _ => (0, last),
        };
        let most = self.times(MOST_STRAY_KEPT);
        let mut at = start;
        let keep = |interval: &Interval| {
            let steps = *parts.get(interval.endpoint).filter(|steps| **steps > 0)?;
            let to = self.behind(at, steps);
            let strays = stray(at, to, self.steps, self.offset);
            at = to;
            (strays <= most).then_some(Interval { endpoint: interval.endpoint, steps })
        };
        let mut kept: Vec<Interval> = order.iter().map(keep).collect::<Option<_>>()?;
        if kept.len() != parts.iter().filter(|steps| **steps > 0).count() {
            return None;
        }
        turn(&mut kept, self.steps - start);
        Some(kept)
    }

    fn times(self, connections: f64) -> i32 {
        (connections * f64::from(self.steps)) as i32
    }

    fn behind(self, at: u32, steps: u32) -> u32 {
        (at + steps) & (self.steps - 1)
    }
}

/// Intervals of the same size.
#[derive(Debug, PartialEq)]
struct Kind {
    steps: u32,
    /// How many are not placed.
    left: usize,
    /// The first of them.
    first: usize,
}

fn kinds(intervals: &[Interval]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for (first, interval) in intervals.iter().enumerate() {
        match kinds.last_mut() {
            Some(kind) if kind.steps == interval.steps => kind.left += 1,
            _ => kinds.push(Kind { steps: interval.steps, left: 1, first }),
        }
    }
    kinds
}

struct Search {
    circle: Circle,
    kinds: Vec<Kind>,
    /// How far an interval may stray, in connections times `steps`.
    most: i32,
    /// How many places were tried so far.
    tries: usize,
}

impl Search {
    /// The kinds of the intervals in the order in which they lie from `start`; `None` where there is no such order or
    /// it was not found in time.
    fn from(&mut self, start: u32) -> Option<Vec<usize>> {
        let all: usize = self.kinds.iter().map(|kind| kind.left).sum();
        let enough = self.tries + TRIES + 2 * all;
        let mut order = Vec::with_capacity(all);
        let (mut at, mut least) = (start, 0);
        while order.len() < all && self.tries < enough {
            if let Some(kind) = (least..self.kinds.len()).find(|kind| self.fits(*kind, at)) {
                self.kinds[kind].left -= 1;
                at = self.circle.behind(at, self.kinds[kind].steps);
                order.push(kind);
                least = 0;
            } else {
                let Some(kind) = order.pop() else { break };
                self.kinds[kind].left += 1;
                at = at.wrapping_sub(self.kinds[kind].steps) & (self.circle.steps - 1);
                least = kind + 1;
            }
        }
        for kind in &order {
            self.kinds[*kind].left += 1;
        }
        (order.len() == all).then_some(order)
    }

    /// Whether there is an interval of this kind left and it strays little enough at this step.
    fn fits(&mut self, kind: usize, at: u32) -> bool {
        if self.kinds[kind].left == 0 {
            return false;
        }
        self.tries += 1;
        let Circle { steps, offset } = self.circle;
        stray(at, self.circle.behind(at, self.kinds[kind].steps), steps, offset) <= self.most
    }
}

/// Lets the intervals begin with what lies `steps` steps behind the beginning of the first.
fn turn(intervals: &mut Vec<Interval>, mut steps: u32) {
    let cut = intervals.iter().position(|interval| {
        let within = steps < interval.steps;
        steps -= if within { 0 } else { interval.steps };
        within
    });
    let Some(cut) = cut else { return };
    intervals.rotate_left(cut);
    if steps > 0 {
        let endpoint = intervals[0].endpoint;
        intervals[0].steps -= steps;
        intervals.push(Interval { endpoint, steps });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intervals(of: &[(usize, u32)]) -> Vec<Interval> {
        of.iter().map(|&(endpoint, steps)| Interval { endpoint, steps }).collect()
    }

    #[test]
    fn the_circle_may_be_cut_within_an_interval() {
        let turned = |steps| {
            let mut all = intervals(&[(0, 4), (1, 3), (2, 1)]);
            turn(&mut all, steps);
            all
        };
        assert_eq!(turned(8), intervals(&[(0, 4), (1, 3), (2, 1)]));
        assert_eq!(turned(4), intervals(&[(1, 3), (2, 1), (0, 4)]));
        assert_eq!(turned(6), intervals(&[(1, 1), (2, 1), (0, 4), (1, 2)]));
    }

    #[test]
    fn a_search_that_finds_nothing_leaves_all_as_it_was() {
        let all = intervals(&[(0, 3), (2, 3), (1, 2)]);
        let circle = Circle { steps: 8, offset: 0 };
        let mut search = Search { circle, kinds: kinds(&all), most: 0, tries: 0 };
        assert_eq!(search.from(0), None);
        assert_eq!(search.kinds, kinds(&all));
        search.most = 100;
        assert_eq!(search.from(0), Some(vec![0, 0, 1]));
    }

    #[test]
    fn a_search_that_does_not_end_is_given_up() {
        let all: Vec<Interval> = (0..45).map(|i| Interval { endpoint: i, steps: 45 - i as u32 }).collect();
        let circle = Circle { steps: 1024, offset: 0 };
        let mut search = Search { circle, kinds: kinds(&all), most: 1100, tries: 0 };
        assert_eq!(search.from(0), None);
        // It looks for the next place to its end.
        let enough = TRIES + 2 * all.len();
        assert!((enough..enough + all.len()).contains(&search.tries), "{}", search.tries);
    }
    #[test]
    fn a_small_change_leaves_the_order_as_it_is() {
        let circle = Circle { steps: 1024, offset: 7 };
        let placed = circle.place(&[405, 18, 307, 294]);
        let kept = circle.keep(&[400, 23, 307, 294], &placed).unwrap();
        let endpoints =
            |of: &[Interval]| -> Vec<usize> { of.iter().map(|interval| interval.endpoint).collect() };
        assert_eq!(endpoints(&kept), endpoints(&placed));
        assert_eq!(kept[0].steps, placed[0].steps, "cut at the same step");
        assert_eq!(kept.iter().map(|interval| interval.steps).sum::<u32>(), 1024);
    }

    #[test]
    fn an_order_of_others_is_not_kept() {
        let circle = Circle { steps: 8, offset: 0 };
        assert_eq!(circle.keep(&[4, 4], &[]), None);
        assert_eq!(circle.keep(&[4, 4], &intervals(&[(0, 8)])), None);
        assert_eq!(circle.keep(&[8], &intervals(&[(0, 4), (1, 4)])), None);
        assert_eq!(circle.keep(&[8, 0], &intervals(&[(0, 4), (1, 4)])), None);
        assert_eq!(circle.keep(&[8], &intervals(&[(0, 8)])), Some(intervals(&[(0, 8)])));
    }
}
