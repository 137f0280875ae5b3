//! A dry run: it counts and explains, says what it would do, and puts nothing into the kernel.

use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::{available, eventually};

use crate::agent::{Agent, plimsoll};
use crate::stage::{PROGRAMS, SOON, Stage};

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 2);
    let agent = &mut stage.agents[0];
    let config = std::fs::read_to_string(&agent.config).unwrap();
    let lines = config.lines().filter(|line| !line.starts_with("dataplane:")).collect::<Vec<_>>().join("\n");
    std::fs::write(&agent.config, lines + "\ndataplane: {dry_run: {}}\n").unwrap();
    agent.start();
    agent.wait_ready();
    let held = stage.hold(0, 20);
    let agent = &stage.agents[0];
    let open = |explanation: &plimsoll_api::Explanation| -> f64 {
        explanation.endpoints.iter().map(|endpoint| endpoint.open).sum()
    };
    let counted = || agent.explain("http").iter().map(open).sum::<f64>();
    assert!(eventually(SOON, || counted() == 20.0), "it counts {}, not 20", counted());
    assert!(agent.explain("http").iter().all(|explanation| explanation.dry_run && explanation.keys[0].taken));
    assert!(
        agent.log().contains("would be balanced") && !agent.log().contains("is balanced"),
        "{}",
        agent.log()
    );
    let said = |arguments: &[&str]| {
        let output = agent.namespace.output(plimsoll().args(arguments)).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let explained = said(&["explain", "web:80/ipv4"]);
    assert!(explained.contains("tcp/10.96.0.1:80: would be balanced (dry run)"), "{explained}");
    let status = said(&["status"]);
    assert!(status.contains("DRY RUN") && status.contains("ready"), "{status}");
    assert!(!agent.has_table());
    assert_eq!(stage.fell_through(0), 20, "the proxy below chose for each");
    held.assert_alive();
}

#[test]
fn many_services_are_told_in_a_line() {
    if !available(&[]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("services.yaml");
    let service = |i: u8| {
        format!(
            "- {{name: web-{i}, addresses: [10.96.0.{i}], ports: [{{port: 80}}], endpoints: [{{address: 10.1.0.{i}}}]}}\n"
        )
    };
    let services: String = (1..=200).map(service).collect();
    std::fs::write(&path, format!("services:\n{services}")).unwrap();
    let config =
        format!("node: n\ndiscovery: {{file: {{path: {}}}}}\ndataplane: {{dry_run: {{}}}}\n", path.display());
    let namespace = Namespace::new("n").unwrap();
    let mut agent = Agent::new(&namespace, directory.path(), 0, &config);
    agent.start();
    agent.wait_ready();
    let told = || agent.log().contains("200 addresses of Services would be balanced");
    assert!(eventually(SOON, told), "{}", agent.log());
    assert!(agent.log().lines().count() < 20, "{}", agent.log());
}
