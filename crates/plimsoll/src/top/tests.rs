//! What `top` shows for a model.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

use expect_test::{Expect, expect};
use plimsoll_api::{Endpoint, ServiceSummary};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

fn check(model: &Model, expected: &Expect) {
    let mut terminal = Terminal::new(TestBackend::new(96, 7)).unwrap();
    terminal.draw(|frame| view::draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines: Vec<String> = (0..buffer.area.height)
        .map(|y| {
            (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned()
        })
        .collect();
    expected.assert_eq(&(lines.join("\n") + "\n"));
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
    model.update(Message::Status(Status {
        node: "n1".into(),
        services: vec![service("shop/web:http/ipv4", Some(1.234)), service("shop/api/ipv4", None)],
        ..Status::default()
    }));
    model
}

#[test]
fn the_list_of_services() {
    check(
        &model(),
        &expect![[r#"
        plimsoll  n1: 2 Services
        SERVICE                                         MODE     ENDPOINTS   OPEN     MAX/MEAN HELD BACK
        shop/web:http/ipv4                              enabled  2/3         40       1.23     0
        shop/api/ipv4                                   enabled  2/3         40       -        0


        up/down choose  Enter endpoints  q quit
    "#]],
    );
}

#[test]
fn the_endpoints_of_a_service() {
    let mut model = model();
    model.update(Message::Down);
    model.update(Message::Enter);
    assert_eq!(model.service(), Some("shop/api/ipv4"));
    assert!(model.wants_endpoints());
    let endpoint = |last: u8, level, limit: Option<&str>| Endpoint {
        endpoint: format!("tcp/10.1.0.{last}:80"),
        node: Some("n1".into()),
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
            endpoint(3, Some(0.3), Some("ceiling")),
            endpoint(4, None, None),
        ],
        ..Explanation::default()
    }]));
    check(
        &model,
        &expect![[r#"
        plimsoll  shop/api/ipv4 on n1
        ENDPOINT                NODE         OPEN   LEVEL, | is the water SHARE    FAIR     LIMIT
        tcp/10.1.0.1:80         n1           12     ██████████|           50.0 %   25.0 %
        tcp/10.1.0.2:80         n1           12     ██████████|█████      50.0 %   25.0 %   floor
        tcp/10.1.0.3:80         n1           12     ███       |           50.0 %   25.0 %   ceiling
        tcp/10.1.0.4:80         n1           12                           50.0 %   25.0 %
        Esc back  q quit
    "#]],
    );
    model.update(Message::Back);
    assert_eq!(model.service(), None);
}

#[test]
fn a_problem_is_shown_until_the_agent_answers_again() {
    let mut model = model();
    model.update(Message::Problem("no agent answers".into()));
    assert_eq!(model.problem(), Some("no agent answers"));
    model.update(Message::Status(Status::default()));
    assert_eq!(model.problem(), None);
}
