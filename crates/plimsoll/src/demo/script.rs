//! What happens in the demo, phase by phase, and which promises held.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::process::Signal;

use super::agents::{self, Agent};
use super::bars::Bars;
use super::measure::{Moment, Phase, Results};
use super::promises::{
    BALANCED_PART_OF_BEFORE, FAILED_CONNECTIONS, FROZEN_FALL_BACK_SECONDS, KILLED_FALL_BACK_SECONDS,
    TAKE_OVER_SECONDS,
};
use super::world::{SERVICES, World};

/// How often the servers' counts are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long the connections of the start may pile up before anything is measured, and each phase lasts, in seconds.
const BEFORE: f64 = 20.0;
const BALANCED: f64 = 20.0;
const SCALE_OUT: f64 = 18.0;
const SLOW: f64 = 14.0;
const KILLED: f64 = 4.0;
const FROZEN: f64 = 6.0;
const STOPPED: f64 = 4.0;

/// Whose agent is killed, and whose is frozen.
const KILLED_NODE: usize = 1;
const FROZEN_NODE: usize = 0;
/// Which endpoint becomes slow, and how much.
const SLOW_ENDPOINT: usize = 5;
const SLOWNESS: f64 = 10.0;

/// Plays the whole demo.
pub(super) fn play(
    world: World,
    directory: &Path,
    bars: &mut Bars,
    stop: &AtomicBool,
) -> anyhow::Result<Results> {
    let agents = agents::prepare(&world, directory)?;
    let results = Results::new(&world);
    let mut play = Play { world, agents, results, bars, stop, start: Instant::now(), from: 0 };
    play.world.start_clients()?;
    play.before()?;
    play.balanced()?;
    play.scale_out()?;
    play.slow_endpoint()?;
    play.agent_killed()?;
    play.agent_frozen()?;
    play.stopped()?;
    play.world.stop_clients();
    play.check_failures();
    play.bars.end();
    Ok(play.results)
}

struct Play<'a> {
    world: World,
    agents: Vec<Agent>,
    results: Results,
    bars: &'a mut Bars,
    stop: &'a AtomicBool,
    start: Instant,
    /// The first moment of the present phase.
    from: usize,
}

impl Play<'_> {
    fn before(&mut self) -> anyhow::Result<()> {
        self.begin("before: the installed proxy alone, equal and at random")?;
        self.pass(BEFORE)?;
        self.end("before", |phase| phase.remark = "the proxy alone".into());
        Ok(())
    }

    fn balanced(&mut self) -> anyhow::Result<()> {
        self.begin("balanced: Plimsoll on")?;
        for agent in &mut self.agents {
            agent.start()?;
        }
        for agent in &mut self.agents {
            agent.wait_ready()?;
        }
        self.pass(BALANCED)?;
        self.end("balanced", |phase| phase.remark = "Plimsoll on".into());
        let excess =
            |name| self.results.phase(name).and_then(|phase| phase.max_over_mean).unwrap_or(f64::NAN) - 1.0;
        let (before, balanced) = (excess("before"), excess("balanced"));
        self.promise(balanced <= before * BALANCED_PART_OF_BEFORE, || {
            format!("balanced: max/mean - 1 is {balanced:.3}, more than a third of before's {before:.3}")
        });
        Ok(())
    }

    fn scale_out(&mut self) -> anyhow::Result<()> {
        self.begin("scale_out: two more endpoints")?;
        let all = self.world.endpoints.len();
        self.world.set_present(all)?;
        self.pass(SCALE_OUT)?;
        self.end("scale_out", |phase| phase.remark = "two more endpoints".into());
        Ok(())
    }

    fn slow_endpoint(&mut self) -> anyhow::Result<()> {
        let endpoint = self.world.endpoints[SLOW_ENDPOINT].name;
        self.begin(&format!("slow_endpoint: everything takes ten times longer on {endpoint}"))?;
        self.world.endpoints[SLOW_ENDPOINT].slow(SLOWNESS);
        self.pass(SLOW)?;
        self.end("slow_endpoint", |phase| phase.remark = format!("{endpoint} ten times slower"));
        self.world.endpoints[SLOW_ENDPOINT].slow(1.0);
        Ok(())
    }

    fn agent_killed(&mut self) -> anyhow::Result<()> {
        self.begin(&format!("agent_killed: SIGKILL for the agent of node{KILLED_NODE}"))?;
        let killed = Instant::now();
        self.agents[KILLED_NODE].signal(Signal::KILL)?;
        let gone = self.until(killed, KILLED_FALL_BACK_SECONDS + 2.0, |play| {
            Ok(!play.agents[KILLED_NODE].has_table()?)
        })?;
        let _ = self.agents[KILLED_NODE].wait()?;
        self.promise(gone.is_some_and(|seconds| seconds <= KILLED_FALL_BACK_SECONDS), || {
            format!(
                "agent_killed: the table was gone after {gone:?} s, not within {KILLED_FALL_BACK_SECONDS}"
            )
        });
        self.pass(KILLED)?;
        let restarted = Instant::now();
        self.agents[KILLED_NODE].start()?;
        self.agents[KILLED_NODE].wait_ready()?;
        let back = self.taken_over(KILLED_NODE, restarted)?;
        self.promise_take_over("agent_killed", back);
        self.end("agent_killed", |phase| {
            phase.fall_back_seconds = gone;
            phase.take_over_seconds = back;
            phase.remark = format!(
                "the proxy below served after {} s; restarted, Plimsoll after {} s",
                shown(gone),
                shown(back)
            );
        });
        Ok(())
    }

    fn agent_frozen(&mut self) -> anyhow::Result<()> {
        self.begin(&format!("agent_frozen: SIGSTOP for the agent of node{FROZEN_NODE}"))?;
        let seen = self.world.fell_through(FROZEN_NODE, 0)?;
        let frozen = Instant::now();
        self.agents[FROZEN_NODE].signal(Signal::STOP)?;
        let below = self.until(frozen, FROZEN_FALL_BACK_SECONDS + 2.0, |play| {
            Ok(play.world.fell_through(FROZEN_NODE, 0)? > seen)
        })?;
        self.promise(below.is_some_and(|seconds| seconds <= FROZEN_FALL_BACK_SECONDS), || {
            format!("agent_frozen: the proxy below served after {below:?} s, not within {FROZEN_FALL_BACK_SECONDS}")
        });
        let rest = FROZEN - frozen.elapsed().as_secs_f64();
        self.pass(rest.max(0.5))?;
        let thawed = Instant::now();
        self.agents[FROZEN_NODE].signal(Signal::CONT)?;
        let back = self.taken_over(FROZEN_NODE, thawed)?;
        self.promise_take_over("agent_frozen", back);
        self.end("agent_frozen", |phase| {
            phase.fall_back_seconds = below;
            phase.take_over_seconds = back;
            phase.remark = format!(
                "the proxy below served after {} s; thawed, Plimsoll after {} s",
                shown(below),
                shown(back)
            );
        });
        Ok(())
    }

    fn stopped(&mut self) -> anyhow::Result<()> {
        self.begin("stopped: every agent is told to stop")?;
        for agent in &mut self.agents {
            agent.signal(Signal::TERM)?;
        }
        let mut clean = true;
        for agent in &mut self.agents {
            clean &= agent.wait()?;
        }
        self.promise(clean, || "stopped: an agent did not end with exit code 0".into());
        for index in 0..self.agents.len() {
            let left = self.agents[index].has_table()?;
            self.promise(!left, || format!("stopped: a table of ours is left on node{index}"));
        }
        self.pass(STOPPED)?;
        self.end("stopped", |phase| phase.remark = "the proxy alone again, nothing left behind".into());
        Ok(())
    }

    fn check_failures(&mut self) {
        let failed: Vec<(&str, u64)> = self
            .results
            .phases
            .iter()
            .filter(|phase| phase.failed_connections > FAILED_CONNECTIONS as u64)
            .map(|phase| (phase.name, phase.failed_connections))
            .collect();
        for (phase, failed) in failed {
            self.promise(false, || format!("{phase}: {failed} connections failed"));
        }
    }

    fn promise(&mut self, held: bool, broken: impl FnOnce() -> String) {
        if !held {
            self.results.broken.push(broken());
        }
    }

    fn promise_take_over(&mut self, phase: &str, back: Option<f64>) {
        self.promise(back.is_some_and(|seconds| seconds <= TAKE_OVER_SECONDS), || {
            format!("{phase}: the agent served again after {back:?} s, not within {TAKE_OVER_SECONDS}")
        });
    }

    /// Seconds from `since` until the stand-in proxy has seen its last connection from this node: what it has seen
    /// then stands still for a second.
    fn taken_over(&mut self, node: usize, since: Instant) -> anyhow::Result<Option<f64>> {
        let mut seen = self.world.fell_through(node, 0)?;
        let mut still = Instant::now();
        let over = self.until(since, TAKE_OVER_SECONDS + 3.0, |play| {
            let now = play.world.fell_through(node, 0)?;
            if now != seen {
                (seen, still) = (now, Instant::now());
            }
            Ok(still.elapsed() >= Duration::from_secs(1))
        })?;
        Ok(over.map(|_| still.duration_since(since).as_secs_f64()))
    }

    fn begin(&mut self, title: &str) -> anyhow::Result<()> {
        self.bars.phase(title);
        self.from = self.results.moments.len();
        self.look()
    }

    fn end(&mut self, name: &'static str, finish: impl FnOnce(&mut Phase)) {
        let names: Vec<String> =
            self.world.present().iter().map(|endpoint| endpoint.name.to_owned()).collect();
        let mut phase = Phase::new(name, &self.results.moments[self.from..], &names);
        finish(&mut phase);
        self.results.phases.push(phase);
    }

    /// Lets time pass, looking again and again.
    fn pass(&mut self, seconds: f64) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < until {
            std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            self.look()?;
        }
        Ok(())
    }

    /// Seconds from `since` until something holds; `None` if it does not within `limit` seconds.
    fn until(
        &mut self,
        since: Instant,
        limit: f64,
        mut holds: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<Option<f64>> {
        let mut next = Instant::now() + LOOK;
        while since.elapsed().as_secs_f64() < limit {
            if holds(self)? {
                return Ok(Some(since.elapsed().as_secs_f64()));
            }
            std::thread::sleep(Duration::from_millis(20));
            if Instant::now() >= next {
                next = Instant::now() + LOOK;
                self.look()?;
            }
        }
        Ok(None)
    }

    fn look(&mut self) -> anyhow::Result<()> {
        if self.stop.load(Ordering::SeqCst) {
            bail!("stopped by a signal; cleaning up");
        }
        let at = self.start.elapsed().as_secs_f64();
        let moment = Moment::look(at, &self.world);
        if self.results.weights.last().is_none_or(|(last, _)| at - last >= 1.0) {
            let shares = self.shares();
            self.results.weights.push((at, shares));
        }
        self.bars.draw(&self.world, &moment);
        self.results.moments.push(moment);
        Ok(())
    }

    /// Node 0's shares, in the order of the endpoints; none where its agent does not answer.
    fn shares(&self) -> Vec<f64> {
        let Some(explanations) = self.agents[0].explain(SERVICES[0].name) else { return Vec::new() };
        let endpoints = explanations.iter().flat_map(|explanation| &explanation.endpoints);
        let shares: std::collections::BTreeMap<&str, f64> =
            endpoints.map(|endpoint| (endpoint.endpoint.as_str(), endpoint.share.unwrap_or(0.0))).collect();
        let share =
            |endpoint: &super::world::Endpoint| shares.get(endpoint.id().as_str()).copied().unwrap_or(0.0);
        self.world.present().iter().map(share).collect()
    }
}

fn shown(seconds: Option<f64>) -> String {
    seconds.map_or("never".into(), |seconds| format!("{seconds:.1}"))
}
