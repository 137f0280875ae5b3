//! The table is read as its page says.

use super::*;

fn problem(text: &str) -> String {
    format!("{:#}", read(text, 1).unwrap_err())
}

#[test]
fn the_table_of_the_repository_has_sixty_cases_and_more() {
    let services = read(CASES, 1).unwrap();
    let cases: usize = services.iter().map(|service| service.cases.len()).sum();
    assert!(cases >= 60, "{cases}");
    for mode in [Mode::Nftables, Mode::Iptables] {
        let taken = services.iter().flat_map(|service| &service.cases);
        let taken = taken.filter(|case| *of(mode, &case.served) == Served::Taken).count();
        assert!(taken >= 60, "{taken} are taken over in {} mode", mode.name());
    }
}

#[test]
fn a_case_differs_by_mode_where_it_says_so() {
    let text = "service a | node-port udp | p1a/unready/zone=b p2a/v6\n\
                x | c1 n2 | cluster:81/tcp node-port@n2/v6 | nftables:refused iptables:one of p2a as node | left";
    let services = read(text, 1).unwrap();
    let service = &services[0];
    assert_eq!(service.protocols, [Protocol::Udp]);
    assert_eq!(service.endpoints[0].conditions, Some([false, false, false]));
    assert_eq!(service.endpoints[0].for_zone.as_deref(), Some("b"));
    assert_eq!(service.endpoints[1].only_v6, Some(true));
    let case = &service.cases[0];
    assert_eq!(case.by, ["c1", "n2"]);
    assert_eq!((case.at[0].port, case.at[0].protocol), (81, Some(Protocol::Tcp)));
    assert_eq!(case.at[1].place, Place::NodePort(Some("n2".into())));
    assert_eq!(*of(Mode::Nftables, &case.sees), Sees::Refused);
    let of_p2a = BTreeSet::from(["p2a".to_owned()]);
    let node = Some(Source::Node);
    assert_eq!(*of(Mode::Iptables, &case.sees), Sees::Answers { of: of_p2a, one: true, source: node });
    assert_eq!(case.served, [Served::Left, Served::Left]);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let told = problem("\nservice a | | p1a\nx | c1 | cluster | p2a");
    assert!(told.contains("line 3") && told.contains("`p2a` is no endpoint of a"), "{told}");
    assert!(problem("service a | nodeport |").contains("`nodeport` is no word for a Service"));
    assert!(problem("x | c1 | cluster | all").contains("no Service"));
    assert!(problem("service a | | p1a\nservice a | | p1a").contains("already"));
    assert!(problem("service a | | p1a\nx | c1 | somewhere | all").contains("no place to dial"));
}

#[test]
fn what_follows_other_proxies_belongs_to_them() {
    let text = "service a | | p1a\nproxy node-cidr node-ports=10.0.0.0/8,::/0\nservice b | | p1a\nservice c | | p1a\n\
                proxy forward-drop\nservice d | | p1a";
    let proxies: Vec<Proxy> = read(text, 1).unwrap().into_iter().map(|service| service.proxy).collect();
    assert_eq!(proxies[0], Proxy::default());
    assert_eq!(
        proxies[1].configuration,
        "detectLocalMode: NodeCIDR\nnodePortAddresses: ['10.0.0.0/8', '::/0']\n"
    );
    assert_eq!(proxies[2], proxies[1]);
    assert_eq!(proxies[3], Proxy { forward_drops: true, ..Proxy::default() });
    assert!(problem("proxy node-cdir").contains("`node-cdir` is no word for a proxy"));
    // Those that need none come first, as the run has it.
    let services = read(CASES, 1).unwrap();
    assert!(services.is_sorted_by_key(|service| service.proxy != Proxy::default()));
}

#[test]
fn services_that_change_keep_their_names_and_numbers() {
    let changing = read_changes(CHANGES, 60).unwrap();
    for states in &changing {
        assert!(states.len() > 1, "{} never changes", states[0].name);
        assert!(states.iter().all(|state| state.number == states[0].number && !state.cases.is_empty()));
    }
    assert_eq!(changing[1][0].number, 61);
    assert!(problem(CHANGES).contains("belongs into the table of changes"));
}
