//! Who writes what when, at whose going, and what is not written.

use super::*;
use crate::remark::{LeftAlone, Problem, Reason};

/// Notebooks of these nodes, which know of each other.
fn notebooks(now: Instant, nodes: &[&str]) -> Vec<Notebook> {
    let all: Vec<NodeName> = nodes.iter().map(|node| NodeName::new(node)).collect();
    all.iter()
        .map(|node| {
            let mut notebook = Notebook::new(node.clone());
            notebook.live(now, all.iter().cloned().collect());
            notebook
        })
        .collect()
}

fn wrong(value: &str) -> Remark {
    Remark::Problem(Problem {
        object: "Service shop/web".into(),
        part: "annotation plimsoll.dev/policy".into(),
        value: value.into(),
        what: "is not one of the choices".into(),
    })
}

fn left() -> Remark {
    Remark::Left(LeftAlone { key: None, reason: Reason::Headless })
}

/// All that is written by then, each with its writer.
fn written(notebooks: &mut [Notebook], now: Instant) -> Vec<(String, Note)> {
    let mut all = Vec::new();
    for notebook in notebooks {
        while let Some(note) = notebook.next(now) {
            all.push((notebook.me.to_string(), note));
        }
    }
    all
}

#[test]
fn one_of_all_writes_each_transition_once() {
    let begin = Instant::now();
    let mut all = notebooks(begin, &["n1", "n2", "n3"]);
    let services: Vec<Arc<str>> = (0..20).map(|i| format!("shop/web-{i}").into()).collect();
    let note = |all: &mut [Notebook], now, remarks: &[Remark]| {
        for notebook in all {
            for service in &services {
                notebook.note(now, service, "u", remarks, true);
            }
        }
    };
    note(&mut all, begin, &[left(), wrong("fastest")]);
    assert_eq!(written(&mut all, begin), [], "it has to hold for a while");
    let told = written(&mut all, begin + SETTLE);
    assert_eq!(told.len(), 2 * services.len(), "two kinds of each");
    let writers: BTreeSet<&String> = told.iter().map(|(writer, _)| writer).collect();
    assert_eq!(writers.len(), 3, "all take part");

    // The same again is nothing new; what is gone is not told; what comes back is.
    let later = begin + 2 * SETTLE;
    note(&mut all, later, &[left(), wrong("fastest")]);
    assert_eq!(written(&mut all, later + SETTLE), []);
    note(&mut all, later, &[left()]);
    assert_eq!(written(&mut all, later + SETTLE), []);
    note(&mut all, later, &[left(), wrong("fastest")]);
    assert_eq!(written(&mut all, later + SETTLE).len(), services.len());
}

#[test]
fn what_is_put_right_at_once_is_not_told() {
    let begin = Instant::now();
    let mut all = notebooks(begin, &["n1"]);
    let web: Arc<str> = "shop/web".into();
    all[0].note(begin, &web, "u", &[wrong("fast")], true);
    all[0].note(begin + SETTLE / 2, &web, "u", &[wrong("faster")], true);
    assert_eq!(written(&mut all, begin + SETTLE), [], "the clock begins anew");
    all[0].note(begin + SETTLE, &web, "u", &[], true);
    assert_eq!(written(&mut all, begin + 3 * SETTLE), []);
    assert_eq!(all[0].next_wake(), None);
    assert!(all[0].services.is_empty() && all[0].due.is_empty());
}

#[test]
fn another_service_of_the_same_name_is_told_of_anew() {
    let begin = Instant::now();
    let mut all = notebooks(begin, &["n1"]);
    let web: Arc<str> = "shop/web".into();
    all[0].note(begin, &web, "first", &[left()], false);
    all[0].note(begin, &web, "second", &[left()], true);
    let told = written(&mut all, begin + SETTLE);
    assert_eq!(told.len(), 1);
    assert_eq!(&*told[0].1.uid, "second");
}

#[test]
fn nobody_writes_before_it_is_known_who_is_alive() {
    let begin = Instant::now();
    let mut alone = Notebook::new(NodeName::new("n1"));
    alone.note(begin, &"shop/web".into(), "u", &[left()], false);
    assert_eq!((alone.next(begin + SETTLE), alone.next_wake()), (None, None));
    alone.live(begin + SETTLE, [NodeName::new("n1")].into());
    assert!(alone.next(begin + SETTLE).is_some_and(|note| !note.is_new));
}

#[test]
fn one_that_is_no_member_writes_nothing() {
    let begin = Instant::now();
    let mut notebook = Notebook::new(NodeName::new("n1"));
    notebook.live(begin, BTreeSet::new());
    notebook.note(begin, &"shop/web".into(), "u", &[left()], true);
    assert_eq!(notebook.next(begin + SETTLE), None);
}

#[test]
fn what_a_node_that_is_gone_may_not_have_written_is_seen_to() {
    let begin = Instant::now();
    let mut all = notebooks(begin, &["n1", "n2"]);
    let services: Vec<Arc<str>> = (0..20).map(|i| format!("shop/web-{i}").into()).collect();
    for notebook in &mut all {
        for service in &services {
            notebook.note(begin, service, "u", &[left()], true);
        }
    }
    let now = begin + SETTLE;
    let told = written(&mut all, now);
    let of_second = told.iter().filter(|(writer, _)| writer == "n2").count();
    assert!(of_second > 0);
    all.truncate(1);
    all[0].live(now, [NodeName::new("n1")].into());
    let more = written(&mut all, now + SETTLE);
    assert_eq!(more.len(), of_second);
    assert!(more.iter().all(|(_, note)| !note.is_new), "it may be there already");
}

#[test]
fn what_could_not_be_written_is_tried_again_while_it_holds() {
    let begin = Instant::now();
    let mut all = notebooks(begin, &["n1"]);
    let web: Arc<str> = "shop/web".into();
    all[0].note(begin, &web, "u", &[left()], true);
    let now = begin + SETTLE;
    let note = all[0].next(now).unwrap();
    all[0].again(now + SETTLE, &note);
    assert_eq!(all[0].next_wake(), Some(now + SETTLE));
    assert_eq!(all[0].next(now + SETTLE), Some(note.clone()));
    all[0].note(now, &web, "u", &[], true);
    all[0].again(now, &note);
    assert_eq!(all[0].next(now + SETTLE), None);
}

#[test]
fn notes_are_as_long_as_the_api_takes_them() {
    let many: Vec<Remark> = (0..40).map(|i| wrong(&format!("värde-{i}"))).collect();
    let long = [wrong(&"ä".repeat(2000))];
    for remarks in [&many[..], &long] {
        let texts = texts(remarks);
        let text = &texts[&Kind::NotUnderstood];
        assert!(text.len() <= LONGEST && text.len() > LONGEST / 2 && text.ends_with('…'), "{text}");
    }
    assert_eq!(texts(&[wrong("a"), wrong("b")])[&Kind::NotUnderstood].lines().count(), 2);
}

#[test]
fn whoever_comes_and_goes_the_writer_is_the_one_of_all_that_are_there() {
    let begin = Instant::now();
    let name = |node: usize| NodeName::new(&format!("n{node}"));
    let mut notebook = Notebook::new(name(0));
    let services: Vec<Arc<str>> = (0..50).map(|i| format!("shop/web-{i}").into()).collect();
    let mut live: BTreeSet<NodeName> = BTreeSet::new();
    for (step, service) in services.iter().enumerate() {
        // Nodes come and go, several at once, the writers among them; Services come meanwhile.
        for node in [step * 7 % 11, step * 5 % 11] {
            if !live.remove(&name(node)) {
                live.insert(name(node));
            }
        }
        notebook.note(begin, service, "u", &[left()], true);
        notebook.live(begin, live.clone());
        for (service, told) in &notebook.services {
            assert_eq!(told.writer.as_ref(), appointed(service, &live), "{service} in step {step}");
        }
    }
}
