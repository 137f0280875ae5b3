//! The mesh's settings as they are written.

use crate::Config;
use crate::mesh::{self, DEFAULT_PORT, with_port};

fn read(text: &str) -> Result<mesh::Config, String> {
    match serde_json::from_str(&format!("{{\"mesh\": {text}}}")) {
        Ok(Config::Mesh(config)) => Ok(config),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn defaults() {
    assert!(matches!(serde_json::from_str("\"local\""), Ok(Config::Local)));
    let config = read("{}").unwrap();
    assert_eq!(config.bind.to_string(), "0.0.0.0:9653");
    assert!(config.key_file.is_none() && !config.insecure);
}

#[test]
fn unknown_fields() {
    let error = read("{\"keyfile\": \"x\"}").unwrap_err();
    assert!(error.contains("keyfile") && error.contains("key_file"), "{error}");
}

#[test]
fn peers() {
    let ports = [
        ("node-a", Some("node-a:9653")),
        ("node-a:1", Some("node-a:1")),
        ("10.0.0.1", Some("10.0.0.1:9653")),
        ("fd00::1", Some("[fd00::1]:9653")),
        ("[fd00::1]:7", Some("[fd00::1]:7")),
        ("node-2", Some("node-2:9653")),
        ("node-2:1", Some("node-2:1")),
        ("192.0.2.1", Some("192.0.2.1:9653")),
        ("2001:db8::1", Some("[2001:db8::1]:9653")),
        ("[2001:db8::1]:7", Some("[2001:db8::1]:7")),
        ("", None),
        (":1", None),
        ("node-a:0", None),
        ("node-a:http", None),
        ("http://node-a:1", None),
    ];
    for (peer, wanted) in ports {
        assert_eq!(with_port(peer).as_deref(), wanted, "{peer}");
    }
    assert_eq!(DEFAULT_PORT, 9653);
    let misspelt = mesh::Config { peers: vec!["a b".to_owned()], insecure: true, ..mesh::Config::default() };
    assert!(misspelt.check().unwrap_err().to_string().contains("`a b` is neither host:port nor host"));
}

#[test]
fn nobody_can_send_to_an_unspecified_address() {
    let config =
        mesh::Config { advertise: Some(([0, 0, 0, 0], 1).into()), insecure: true, ..mesh::Config::default() };
    assert!(config.check().unwrap_err().to_string().contains("advertise"));
}
