//! What `top` shows for a model.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

use expect_test::{Expect, expect};
use plimsoll_api::{Endpoint, ServiceSummary};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

fn check(model: &Model, width: u16, expected: &Expect) {
    check_at(model, width, 7, expected);
}

fn check_at(model: &Model, width: u16, height: u16, expected: &Expect) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines: Vec<String> = (0..buffer.area.height)
        .map(|y| {
            (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned()
        })
        .collect();
    expected.assert_eq(&(lines.join("\n") + "\n"));
}

fn status(services: Vec<ServiceSummary>) -> Message {
    Message::Status(Box::new(Status { node: "n1".into(), services, ..Status::default() }))
}

fn model() -> Model {
    let mut model = Model::new(None);
    let service = |name: &str, ratio| ServiceSummary {
        service: name.into(),
        mode: "enabled".into(),
        endpoints: 3,
        eligible: 2,
        open: 40.0,
        max_over_mean: ratio,
        ..ServiceSummary::default()
    };
    let services = vec![service("shop/web:http/ipv4", Some(1.234)), service("shop/api/ipv4", None)];
    model.update(status(services));
    model
}

#[test]
fn the_list_of_services() {
    check(
        &model(),
        80,
        &expect![[r#"
        plimsoll  n1: 2 Services
        SERVICE                         MODE     ENDPOINTS   OPEN     MAX/MEAN HELD BACK
        shop/web:http/ipv4              enabled  2/3         40       1.23     0
        shop/api/ipv4                   enabled  2/3         40       -        0


        up/down choose  Enter endpoints  ? help  q quit
    "#]],
    );
    check(
        &model(),
        120,
        &expect![[r#"
        plimsoll  n1: 2 Services
        SERVICE                                                                 MODE     ENDPOINTS   OPEN     MAX/MEAN HELD BACK
        shop/web:http/ipv4                                                      enabled  2/3         40       1.23     0
        shop/api/ipv4                                                           enabled  2/3         40       -        0


        up/down choose  Enter endpoints  ? help  q quit
    "#]],
    );
    // No name is cut for a column's sake, as long as one of them can go.
    let mut model = model();
    let mut services = model.services().to_vec();
    services[0].service = "a-namespace-of-its-own/a-service-of-many-words:http/ipv4".into();
    model.update(status(services));
    check(
        &model,
        100,
        &expect![[r#"
        plimsoll  n1: 2 Services
        SERVICE                                                      ENDPOINTS   OPEN     MAX/MEAN HELD BACK
        a-namespace-of-its-own/a-service-of-many-words:http/ipv4     2/3         40       1.23     0
        shop/api/ipv4                                                2/3         40       -        0


        up/down choose  Enter endpoints  ? help  q quit
    "#]],
    );
    check(
        &model,
        80,
        &expect![[r#"
        plimsoll  n1: 2 Services
        SERVICE                                                        OPEN     MAX/MEAN
        a-namespace-of-its-own/a-service-of-many-words:http/ipv4       40       1.23
        shop/api/ipv4                                                  40       -


        up/down choose  Enter endpoints  ? help  q quit
    "#]],
    );
}

/// The endpoints of a Service, at these addresses, on this node.
fn endpoints(at: fn(u8) -> String, node: &str) -> Model {
    let mut model = model();
    model.update(Message::Down);
    model.update(Message::Enter);
    assert_eq!(model.service(), Some("shop/api/ipv4"));
    assert!(model.wants_endpoints());
    let endpoint = |last: u8, level, limit: Option<&str>| Endpoint {
        endpoint: format!("tcp/{}:8080", at(last)),
        node: Some(node.into()),
        share: Some(0.5),
        fair_share: 0.25,
        open: 12.0,
        level,
        limit: limit.map(str::to_owned),
        ..Endpoint::default()
    };
    model.update(Message::Endpoints(vec![Explanation {
        node: "n1".into(),
        endpoints: vec![
            endpoint(1, Some(1.0), None),
            endpoint(2, Some(1.5), Some("floor")),
            endpoint(3, Some(0.3), Some("no-evidence")),
            endpoint(4, None, None),
        ],
        ..Explanation::default()
    }]));
    model
}

#[test]
fn the_endpoints_of_a_service() {
    let mut model = endpoints(|last| format!("10.1.0.{last}"), "node-1");
    check(
        &model,
        120,
        &expect![[r#"
        plimsoll  shop/api/ipv4 on n1
        ENDPOINT                                              NODE   OPEN   LEVEL (| waterline)   SHARE    FAIR     LIMIT
        tcp/10.1.0.1:8080                                     node-1 12     ██████████|           50.0 %   25.0 %
        tcp/10.1.0.2:8080                                     node-1 12     ██████████|█████      50.0 %   25.0 %   floor
        tcp/10.1.0.3:8080                                     node-1 12     ███       |           50.0 %   25.0 %   no-evidence
        tcp/10.1.0.4:8080                                     node-1 12                           50.0 %   25.0 %
        Esc back  ? help  q quit
    "#]],
    );
    check(
        &model,
        100,
        &expect![[r#"
        plimsoll  shop/api/ipv4 on n1
        ENDPOINT                          NODE   OPEN   LEVEL (| waterline)   SHARE    FAIR     LIMIT
        tcp/10.1.0.1:8080                 node-1 12     ██████████|           50.0 %   25.0 %
        tcp/10.1.0.2:8080                 node-1 12     ██████████|█████      50.0 %   25.0 %   floor
        tcp/10.1.0.3:8080                 node-1 12     ███       |           50.0 %   25.0 %   no-evidence
        tcp/10.1.0.4:8080                 node-1 12                           50.0 %   25.0 %
        Esc back  ? help  q quit
    "#]],
    );
    check(
        &model,
        80,
        &expect![[r#"
        plimsoll  shop/api/ipv4 on n1
        ENDPOINT               NODE   OPEN   LEVEL (| waterline)   SHARE    LIMIT
        tcp/10.1.0.1:8080      node-1 12     ██████████|           50.0 %
        tcp/10.1.0.2:8080      node-1 12     ██████████|█████      50.0 %   floor
        tcp/10.1.0.3:8080      node-1 12     ███       |           50.0 %   no-evidence
        tcp/10.1.0.4:8080      node-1 12                           50.0 %
        Esc back  ? help  q quit
    "#]],
    );
    model.update(Message::Back);
    assert_eq!(model.service(), None);
}

#[test]
fn long_addresses_keep_their_place_in_80_columns() {
    check(
        &endpoints(
            |last| format!("[fd10:1234:5678:9abc:def0:1234:5678:{last}]"),
            "a-node-with-a-long-name.example",
        ),
        80,
        &expect![[r#"
            plimsoll  shop/api/ipv4 on n1
            ENDPOINT                                          LEVEL (| waterline)   SHARE
            tcp/[fd10:1234:5678:9abc:def0:1234:5678:1]:8080   ██████████|           50.0 %
            tcp/[fd10:1234:5678:9abc:def0:1234:5678:2]:8080   ██████████|█████      50.0 %
            tcp/[fd10:1234:5678:9abc:def0:1234:5678:3]:8080   ███       |           50.0 %
            tcp/[fd10:1234:5678:9abc:def0:1234:5678:4]:8080                         50.0 %
            Esc back  ? help  q quit
        "#]],
    );
}

#[test]
fn the_help_goes_by_any_key() {
    let mut model = model();
    model.update(Message::Help);
    check_at(
        &model,
        80,
        11,
        &expect![[r#"
            plimsoll  n1: 2 Services
            SERVICE              name:port/family
            MODE                 enabled, or observe: counted only
            ENDPOINTS            those that get new connections / all
            OPEN                 open connections, of all nodes
            MAX/MEAN             the fullest endpoint against the mean; 1.00 is even
            HELD BACK            those held back, because connections to them fail
            These go first where room is short: MODE, ENDPOINTS, HELD BACK, OPEN


            any key back
        "#]],
    );
    model.update(Message::Status(Box::default()));
    assert!(model.wants_help(), "news are no key");
    model.update(Message::Enter);
    assert!(!model.wants_help() && model.service().is_none(), "the key does nothing else");
    let mut model = endpoints(|last| format!("10.1.0.{last}"), "node-1");
    model.update(Message::Help);
    check_at(
        &model,
        80,
        11,
        &expect![[r#"
        plimsoll  shop/api/ipv4 on n1
        ENDPOINT             protocol, address and port
        NODE                 the node that hosts it
        OPEN                 open connections, of all nodes
        LEVEL (| waterline)  connections per capacity; | is the mean
        SHARE                its part of this node's new connections
        FAIR                 the part of the load that is its due
        LIMIT                what its share ran into; `plimsoll explain` says more
        These go first where room is short: FAIR, NODE, OPEN, LIMIT, SHARE

        any key back
    "#]],
    );
}

#[test]
fn a_problem_is_shown_until_the_agent_answers_again() {
    let mut model = model();
    model.update(Message::Problem("no agent answers".into()));
    assert_eq!(model.problem(), Some("no agent answers"));
    model.update(Message::Status(Box::default()));
    assert_eq!(model.problem(), None);
}
