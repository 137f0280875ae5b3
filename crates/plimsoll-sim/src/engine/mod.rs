//! The engine: virtual time, and what happens next.
//!
//! Arrivals, connections, requests and the cluster's own events each keep their next time; the soonest happens. All
//! random numbers come from streams of one seed, and those that the world draws do not depend on the policy: every
//! policy meets the same clients with the same wishes at the same times.

mod arrivals;
mod connections;
mod script;
mod source;

use plimsoll_core::time::Timestamp;

use crate::cluster::{Cluster, Endpoint, Standing};
use crate::dice::Dice;
use crate::measure::{Measured, Meter, SAMPLED_EVERY};
use crate::queue::Queue;
use crate::scenario::{Failure, Scenario};
use crate::steering::{self, Steering};
use arrivals::{Wish, draw_demand, nanos};
use connections::{Connection, Connections, Phase};
use script::{Action, Script};
use source::{Present, Source};

/// The streams of a seed.
const ARRIVALS: u64 = 1;
const REQUESTS: u64 = 2;
const SCRIPT: u64 = 3;
const WORLD: u64 = 4;
const AWAY: u64 = 5;
/// The stream for the steering.
const STEERING: u64 = 6;

/// A connection that fails lasts this long.
const FAILS_WITHIN: std::time::Duration = std::time::Duration::from_millis(1);

/// A cluster at work.
pub struct Engine<'a> {
    scenario: &'a Scenario,
    cluster: Cluster,
    steering: Box<dyn Steering>,
    arrivals: Source,
    requests: Dice,
    script: Script,
    connections: Connections,
    /// Closes, requests and dials, by the number of the connection.
    queue: Queue,
    /// When the next request of each endpoint is done, and the soonest of them.
    done: Vec<Timestamp>,
    soonest: usize,
    meter: Meter,
    sample_at: Timestamp,
    steps: u64,
}

impl<'a> Engine<'a> {
    /// A cluster with the long connections that there are in the long run, placed in proportion to capacity; in a
    /// replay with those that were open, where they were.
    /// `steering` makes who decides, once those are open.
    pub fn new(
        scenario: &'a Scenario,
        seed: u64,
        steering: impl FnOnce(&Cluster, Dice) -> Box<dyn Steering>,
    ) -> Engine<'a> {
        let mut cluster = Cluster::of(scenario, &mut Dice::new(seed, WORLD));
        let mut arrivals = Source::new(scenario, Dice::new(seed, ARRIVALS));
        let mut requests = Dice::new(seed, REQUESTS);
        let mut connections = Connections::default();
        let mut queue = Queue::default();
        for Present { node, wish, endpoint } in arrivals.present() {
            let Wish::Connection { long, seconds, requests_per_second } = wish else { continue };
            let level = |endpoint: &usize| {
                let endpoint = &cluster.endpoints[*endpoint];
                (f64::from(endpoint.open) + 1.0) / endpoint.capacity
            };
            let lowest = || (0..cluster.endpoints.len()).min_by(|a, b| level(a).total_cmp(&level(b)));
            let Some(endpoint) = endpoint.or_else(lowest) else { break };
            cluster.open(node, endpoint);
            let number = connections.add(Connection {
                phase: Phase::Open,
                long,
                node: node as u16,
                endpoint: endpoint as u32,
                opened: Timestamp::ZERO,
                ends: Timestamp::ZERO + nanos(seconds),
                mark: 0,
                requests_per_second,
            });
            schedule(&mut queue, &mut requests, Timestamp::ZERO, number, connections.get(number));
        }
        let steering = steering(&cluster, Dice::new(seed, STEERING));
        Engine {
            scenario,
            done: vec![Timestamp::NEVER; cluster.endpoints.len()],
            cluster,
            steering,
            arrivals,
            requests,
            script: Script::new(scenario, Dice::new(seed, SCRIPT), Dice::new(seed, AWAY)),
            connections,
            queue,
            soonest: 0,
            meter: Meter::new(scenario),
            sample_at: Timestamp::ZERO + SAMPLED_EVERY,
            steps: 0,
        }
    }

    /// The cluster as it is now.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Who decides.
    pub fn steering(&self) -> &dyn Steering {
        &*self.steering
    }

    /// Runs to the end of the scenario. `watch` is called at each sample with the time.
    pub fn run(mut self, mut watch: impl FnMut(Timestamp, &Engine<'_>)) -> Measured {
        let end = self.scenario.end();
        let from = Timestamp::from_duration(self.scenario.measured_from.0);
        let mut written_before = 0;
        loop {
            let rare = self.script.next_at().min(self.sample_at);
            let woken = self.steering.next_wake();
            let done = self.done[self.soonest];
            let queued = self.queue.next_at();
            let now = rare.min(woken).min(done).min(queued).min(self.arrivals.next_at());
            if now >= end {
                break;
            }
            self.steps += 1;
            if now == rare {
                if now == self.sample_at {
                    self.sample_at = now + SAMPLED_EVERY;
                    self.meter.sample(now, &self.cluster);
                    if now <= from {
                        written_before = self.steering.weight_changes();
                    }
                    watch(now, &self);
                } else if let Some((now, action)) = self.script.take() {
                    self.act(now, action);
                }
            } else if now == woken {
                self.steering.wake(now, &self.cluster);
            } else if now == done {
                self.finish(now, self.soonest);
            } else if now == queued {
                if let Some((now, number)) = self.queue.take() {
                    self.go_on(now, number as u32);
                }
            } else if let Some((node, wish)) = self.arrivals.take() {
                self.arrive(now, node, wish);
            }
        }
        let written = self.steering.weight_changes() - written_before;
        let steps = self.steps + self.steering.steps();
        self.meter.result(end.seconds_since(from), written, steps, self.cluster.nodes)
    }

    fn arrive(&mut self, now: Timestamp, node: usize, wish: Wish) {
        let (long, ends, requests_per_second, demand) = match wish {
            Wish::Request(demand) => (false, Timestamp::NEVER, 0.0, Some(demand)),
            Wish::Connection { long, seconds, requests_per_second } => {
                (long, Timestamp::ZERO + nanos(seconds), requests_per_second, None)
            }
        };
        let connection = Connection {
            phase: Phase::Dialling,
            long,
            node: node as u16,
            endpoint: 0,
            opened: now,
            ends,
            mark: 0,
            requests_per_second,
        };
        self.connect(now, connection, demand);
    }

    /// A client dials. `demand` is that of its one request, if it has one.
    fn connect(&mut self, now: Timestamp, mut connection: Connection, demand: Option<f64>) {
        let node = usize::from(connection.node);
        let chosen = self.steering.choose(now, node, &self.cluster);
        let Some(endpoint) = chosen.filter(|e| self.cluster.endpoints[*e].standing == Standing::Serving)
        else {
            self.meter.attempted(now, true);
            return;
        };
        let failure = self.cluster.endpoints[endpoint].failure;
        let fails = match failure {
            None => false,
            Some(Failure::Error) => demand.is_some(),
            Some(Failure::Close | Failure::Refuse) => true,
        };
        self.meter.attempted(now, fails);
        if failure == Some(Failure::Refuse) {
            self.steering.refused(now, node, endpoint);
            return;
        }
        self.cluster.open(node, endpoint);
        connection.phase = Phase::Open;
        connection.endpoint = endpoint as u32;
        connection.opened = now;
        connection.mark = self.steering.opened(now, node, endpoint);
        if fails {
            connection.long = false;
            connection.ends = now + FAILS_WITHIN;
            connection.requests_per_second = 0.0;
        } else if connection.ends < Timestamp::NEVER {
            connection.ends = now + connection.ends.since(Timestamp::ZERO);
        }
        let number = self.connections.add(connection);
        if fails || demand.is_none() {
            schedule(&mut self.queue, &mut self.requests, now, number, &connection);
        } else if let Some(demand) = demand {
            self.begin(now, demand, number, &connection, true);
        }
        if fails && failure == Some(Failure::Error) {
            self.err(now, &connection);
        }
    }

    /// The time of a connection has come: to dial, to ask, to close, or to be forgotten.
    fn go_on(&mut self, now: Timestamp, number: u32) {
        let connection = *self.connections.get(number);
        match connection.phase {
            Phase::Gone => self.connections.free(number),
            Phase::Dialling => {
                self.connections.free(number);
                self.connect(now, connection, None);
            }
            Phase::Open if now >= connection.ends => self.close(now, number),
            Phase::Open => {
                self.ask(now, number, &connection);
                schedule(&mut self.queue, &mut self.requests, now, number, &connection);
            }
        }
    }

    /// A request on an open connection.
    fn ask(&mut self, now: Timestamp, number: u32, connection: &Connection) {
        let endpoint = connection.endpoint as usize;
        let Some(work) = &self.scenario.work else { return };
        // Drawn in any case, so that other requests stay the same.
        let demand = draw_demand((work.demand.0.as_secs_f64(), work.demand_sigma), &mut self.requests);
        let fails = self.cluster.endpoints[endpoint].failure == Some(Failure::Error);
        self.meter.attempted(now, fails);
        if fails {
            self.err(now, connection);
        } else {
            self.begin(now, demand, number, connection, false);
        }
    }

    /// The endpoint begins to work on a request; `last` closes the connection.
    fn begin(&mut self, now: Timestamp, demand: f64, number: u32, connection: &Connection, last: bool) {
        let endpoint = connection.endpoint as usize;
        self.steering.asked(usize::from(connection.node), endpoint);
        self.cluster.endpoints[endpoint].processor.begin(now, demand, number, connection.node, last);
        self.refresh_done(endpoint);
    }

    /// A request is answered at once, with an error.
    fn err(&mut self, now: Timestamp, connection: &Connection) {
        let (node, endpoint) = (usize::from(connection.node), connection.endpoint as usize);
        self.steering.asked(node, endpoint);
        self.steering.answered(now, node, endpoint, FAILS_WITHIN.as_secs_f64());
        self.steering.erred(endpoint);
    }

    /// A request is done.
    fn finish(&mut self, now: Timestamp, endpoint: usize) {
        let Some(request) = self.cluster.endpoints[endpoint].processor.finish(now) else { return };
        self.refresh_done(endpoint);
        let seconds = now.seconds_since(request.began);
        self.meter.answered(now, seconds);
        self.steering.answered(now, usize::from(request.node), endpoint, seconds);
        if request.last {
            self.close(now, request.connection);
        }
    }

    fn close(&mut self, now: Timestamp, number: u32) {
        self.hang_up(now, number);
        self.connections.free(number);
    }

    fn hang_up(&mut self, now: Timestamp, number: u32) {
        let connection = self.connections.get(number);
        connection.phase = Phase::Gone;
        let gone = steering::Connection {
            node: usize::from(connection.node),
            endpoint: connection.endpoint as usize,
            opened: connection.opened,
            mark: connection.mark,
        };
        self.cluster.close(gone.node, gone.endpoint);
        self.steering.closed(now, &gone);
    }

    /// A long connection is dropped; its client dials again after a while, with what is left of its life.
    fn drop_and_redial(&mut self, now: Timestamp, number: u32, away: f64) {
        self.hang_up(now, number);
        // The old number is given back when its time comes.
        let dropped = *self.connections.get(number);
        let left = dropped.ends.since(now);
        let again = Connection { phase: Phase::Dialling, ends: Timestamp::ZERO + left, ..dropped };
        let number = self.connections.add(again);
        self.queue.add(now + nanos(away), u64::from(number));
    }

    /// The next request of an endpoint is done at another time.
    fn refresh_done(&mut self, endpoint: usize) {
        let at = self.cluster.endpoints[endpoint].processor.next_done();
        let before = std::mem::replace(&mut self.done[endpoint], at);
        if endpoint == self.soonest && at > before {
            let soonest = self.done.iter().enumerate().min_by_key(|(_, at)| **at);
            self.soonest = soonest.map_or(0, |(endpoint, _)| endpoint);
        } else if at < self.done[self.soonest] {
            self.soonest = endpoint;
        }
    }

    /// Something happens to the cluster.
    fn act(&mut self, now: Timestamp, action: Action) {
        match action {
            Action::Add(add) => {
                let parallel = self.scenario.work.as_ref().map_or(1.0, |work| work.parallel);
                let first = self.cluster.endpoints.len();
                for number in first..first + add.count {
                    let host = Some(number % self.cluster.nodes);
                    self.cluster.add(Endpoint { host, since: now, ..Endpoint::new(add.capacity, parallel) });
                    self.done.push(Timestamp::NEVER);
                    if add.cold_speed < 1.0 {
                        self.cluster.change_speed(now, number, add.cold_speed);
                        self.script.warm(now + add.cold_for.0, number, 1.0 / add.cold_speed);
                    }
                }
                self.meter.added(now, (first..first + add.count).collect());
                self.steering.members_changed(now, &self.cluster);
            }
            Action::Drain(endpoint) => {
                self.cluster.set_standing(endpoint, Standing::Draining);
                self.steering.members_changed(now, &self.cluster);
            }
            Action::Expel(endpoint) => {
                for number in self.connections.long(|connection| connection.endpoint as usize == endpoint) {
                    let away = self.script.away();
                    self.drop_and_redial(now, number, away);
                }
                self.cluster.set_standing(endpoint, Standing::Gone);
                self.steering.members_changed(now, &self.cluster);
            }
            Action::Speed(endpoint, factor) => {
                self.cluster.change_speed(now, endpoint, factor);
                self.refresh_done(endpoint);
            }
            Action::Fail(endpoint, failure) => self.cluster.endpoints[endpoint].failure = failure,
            Action::Misread(endpoint, misreading) => self.cluster.endpoints[endpoint].misreading = misreading,
            Action::Redial { node, within, part } => {
                for number in self.connections.long(|connection| usize::from(connection.node) == node) {
                    if let Some(away) = self.script.drops(within, part) {
                        self.drop_and_redial(now, number, away);
                    }
                }
            }
            Action::CutOff(nodes, is_cut) => self.steering.cut_off(&nodes, is_cut),
            Action::Multiply(factor) => {
                if let Some(arrivals) = self.arrivals.drawn() {
                    arrivals.multiply(now, factor);
                }
            }
            Action::Burst { node, on } => {
                let factor = self.scenario.bursts.as_ref().map_or(1.0, |bursts| bursts.factor);
                if let Some(arrivals) = self.arrivals.drawn() {
                    arrivals.set_node_factor(now, node, if on { factor } else { 1.0 });
                }
            }
            Action::Swing => {
                if let (Some(swing), Some(arrivals)) = (&self.scenario.swing, self.arrivals.drawn()) {
                    let turns = now.seconds_since(Timestamp::ZERO) / swing.period.0.as_secs_f64();
                    let wave = libm::sin(std::f64::consts::TAU * turns);
                    arrivals.set_swing(now, 1.0 + swing.depth * wave);
                }
            }
        }
    }
}

/// Notes when a connection asks next, or closes.
fn schedule(queue: &mut Queue, dice: &mut Dice, now: Timestamp, number: u32, connection: &Connection) {
    let asks = if connection.requests_per_second > 0.0 {
        now + nanos(dice.exponential(1.0 / connection.requests_per_second))
    } else {
        Timestamp::NEVER
    };
    queue.add(asks.min(connection.ends), u64::from(number));
}

#[cfg(test)]
mod tests;
