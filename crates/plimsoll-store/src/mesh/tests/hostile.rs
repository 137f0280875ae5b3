//! Forged, mutated, truncated and replayed datagrams change nothing.

use plimsoll_core::time::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::net::SocketAddr;

use super::cluster::{Cluster, Delivered, busy, key, seconds};
use crate::mesh::machine::{Input, Machine, Output};
use crate::mesh::seal::{KeyRing, MAX_DATAGRAM, Mark, OVERHEAD, Sealer, Start};

/// Gives a datagram to a machine that must not care. What it may do is challenge, with no more bytes than came.
fn strike(machine: &mut Machine, now: Timestamp, from: SocketAddr, bytes: &[u8], out: &mut Vec<Output>) {
    out.clear();
    machine.on(now, Input::Datagram { from, bytes }, out);
    for output in out {
        let Output::Send { to, bytes: answer } = output else { panic!("it told its agent {output:?}") };
        assert_eq!(*to, from);
        assert!(answer.len() <= bytes.len(), "{} bytes in answer to {}", answer.len(), bytes.len());
    }
}

/// A mesh that has lived for a while: a key was rotated out, nodes died and restarted. And all that was ever
/// delivered to anybody.
fn a_mesh_with_a_past() -> (Cluster, Vec<Delivered>) {
    let mut cluster = Cluster::new(6, 21, busy(60));
    cluster.tape = Some(Vec::new());
    let (old, new) = (key(1), key(2));
    for index in 0..6 {
        cluster.nodes[index].keys = vec![old.clone(), new.clone()];
        cluster.start(index);
    }
    cluster.run_until(seconds(30.0), "all there", Cluster::is_converged);
    cluster.run(seconds(5.0));
    for index in 0..6 {
        cluster.nodes[index].keys = vec![new.clone()];
        cluster.input(index, Input::Keys(KeyRing::new(std::slice::from_ref(&new))));
        cluster.run(seconds(0.5));
    }
    for index in [0, 3] {
        cluster.stop(index);
        cluster.start(index);
        cluster.run_until(seconds(30.0), "restarted", Cluster::is_converged);
    }
    // Long enough for the sessions of the dead to be forgotten.
    cluster.run(seconds(130.0));
    assert!(cluster.is_converged());
    let tape = cluster.tape.take().unwrap();
    (cluster, tape)
}

/// One hostile datagram. Never one that a live member could have sent and that was not delivered yet.
fn hostile(rng: &mut StdRng, tape: &[Delivered], foreign: &mut Sealer, bytes: &mut Vec<u8>) -> SocketAddr {
    let taken = &tape[rng.random_range(0..tape.len())];
    bytes.clear();
    bytes.extend_from_slice(&taken.bytes);
    match rng.random_range(0..6) {
        // Replayed as it was, to whoever it was meant for, from wherever.
        0 => {}
        1 => {
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= rng.random_range(1..=255);
            }
            if *bytes == taken.bytes {
                bytes[0] ^= 0x80;
            }
        }
        2 => bytes.truncate(rng.random_range(0..bytes.len())),
        3 => {
            bytes.clear();
            bytes.resize(rng.random_range(0..=MAX_DATAGRAM + 1), 0);
            rng.fill(&mut bytes[..]);
        }
        // A plausible header with rubbish behind it.
        4 => rng.fill(&mut bytes[OVERHEAD - 16..]),
        // Well sealed, with a key of another mesh.
        _ => *bytes = foreign.seal(Mark::UNKNOWN, &taken.bytes[..taken.bytes.len() - OVERHEAD]),
    }
    if rng.random_bool(0.5) {
        taken.from
    } else {
        SocketAddr::from(([192, 0, 2, rng.random()], rng.random_range(1..=u16::MAX)))
    }
}

#[test]
fn a_million_hostile_datagrams_change_nothing() {
    let (mut cluster, tape) = a_mesh_with_a_past();
    let mut rng = StdRng::seed_from_u64(22);
    let mut foreign = Sealer::new(&KeyRing::new(&[key(7)]), Start([7; 16]));
    let now = cluster.now;
    let machine = cluster.nodes[0].machine.as_mut().unwrap();
    let (before, sizes, counted) = (machine.state(), machine.sizes(), machine.health(now));
    let (mut bytes, mut out) = (Vec::new(), Vec::new());
    for round in 0..1_000_000u64 {
        let from = hostile(&mut rng, &tape, &mut foreign, &mut bytes);
        // Time passes, but no timer runs: what changes is the attack's doing.
        let now = now + std::time::Duration::from_micros(round * 5);
        strike(machine, now, from, &bytes, &mut out);
        if round % 100_000 == 0 {
            assert_eq!(machine.sizes(), sizes, "after {round}");
        }
    }
    assert_eq!(machine.state(), before);
    assert_eq!(machine.sizes(), sizes);
    let after = machine.health(now);
    assert_eq!(after.datagrams_in - counted.datagrams_in, 1_000_000);
    let rejected =
        |reason: &str| after.rejected.get(reason).unwrap_or(&0) - counted.rejected.get(reason).unwrap_or(&0);
    let reasons = [
        "malformed",
        "own",
        "unknown_key",
        "forged",
        "replayed",
        "challenged",
        "unchallenged",
        "stale_proof",
    ];
    for reason in reasons {
        eprintln!("{:>8} {reason}", rejected(reason));
        assert!(rejected(reason) > 0, "the attack never tried {reason}");
    }
    assert_eq!(reasons.iter().map(|reason| rejected(reason)).sum::<u64>(), 1_000_000, "each was rejected");
    cluster.run(seconds(10.0));
    assert!(cluster.is_converged(), "and the mesh goes on");
}

/// Everything that was ever sent, played again to processes that restarted since, and from senders that did.
#[test]
fn nothing_recorded_counts_after_a_restart_of_either_side() {
    for restarted in [0, 1] {
        let mut cluster = Cluster::running(3, 23, busy(10));
        cluster.tape = Some(Vec::new());
        cluster.run(seconds(5.0));
        cluster.stop(restarted);
        // As the handshake would be fresh: replay at once, and again when all sessions of the dead are forgotten.
        for wait in [0.5, 200.0] {
            cluster.start(restarted);
            cluster.run(seconds(wait));
            let tape = cluster.tape.clone().unwrap();
            let now = cluster.now;
            for index in 0..3 {
                let machine = cluster.nodes[index].machine.as_mut().unwrap();
                let before = machine.state();
                for delivered in tape.iter().filter(|delivered| delivered.to == index) {
                    strike(machine, now, delivered.from, &delivered.bytes, &mut Vec::new());
                }
                assert_eq!(machine.state(), before, "node {index}, {restarted} restarted, {wait} s later");
            }
            cluster.run_until(seconds(10.0), "the mesh goes on", Cluster::is_converged);
            cluster.stop(restarted);
        }
    }
}

/// An attacker who can drop and hold back datagrams gains no more than that.
#[test]
fn a_handshake_held_back_is_worth_nothing() {
    let mut cluster = Cluster::new(2, 24, busy(5));
    cluster.tape = Some(Vec::new());
    cluster.start(0);
    cluster.start(1);
    cluster.run(seconds(2.0));
    assert!(cluster.is_converged());
    let tape = cluster.tape.take().unwrap();
    // Node 1 dies; a minute later its last words, and its whole handshake, are played to node 0 again.
    cluster.stop(1);
    cluster.run(seconds(180.0));
    let now = cluster.now;
    let machine = cluster.nodes[0].machine.as_mut().unwrap();
    assert_eq!(machine.sizes()[0], 0, "the session is forgotten");
    let before = machine.state();
    for delivered in tape.iter().filter(|delivered| delivered.to == 0) {
        strike(machine, now, delivered.from, &delivered.bytes, &mut Vec::new());
    }
    assert_eq!(machine.state(), before);
}
