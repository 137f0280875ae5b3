//! `plimsoll agent --check-config`: the configuration with the files it names.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::plimsoll;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// What it says about these files, and whether it ended well.
fn check(services: &str, key: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("services.yaml", services);
    write("mesh.key", key);
    let anyone = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(directory.path().join("mesh.key"), anyone).unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    write(
        "agent.yaml",
        &format!(
            "node: n1\ndiscovery: {{file: {{path: {}}}}}\nstore: {{mesh: {{key_file: {}}}}}\n",
            at("services.yaml"),
            at("mesh.key")
        ),
    );
    run(&directory.path().join("agent.yaml"))
}

fn run(config: &Path) -> (bool, String) {
    let output = plimsoll().args(["agent", "--check-config", "--config"]).arg(config).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn the_files_of_a_valid_configuration_are_valid_too() {
    let (ok, text) = check("services: []\n", KEY);
    assert!(ok && text.contains("lease: 10s"), "{text}");
    assert!(text.contains("mark_mask: \"0x0ff70000\""), "{text}");
    assert!(text.contains("mesh.key (mode 644); `chmod 600` it"), "{text}");
}

#[test]
fn the_name_in_force_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("services.yaml"), "services: []\n").unwrap();
    let services = at("services.yaml").display().to_string();
    std::fs::write(at("agent.yaml"), format!("discovery: {{file: {{path: {services}}}}}\n")).unwrap();
    let (ok, text) = run(&at("agent.yaml"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    if ok {
        assert!(text.contains(&format!("node: {}\n", host.trim())), "{text}");
    } else {
        assert!(text.contains("this host has no name"), "{host}: {text}");
    }
}

#[test]
fn an_invalid_services_file_is_told_with_its_line() {
    let (ok, text) = check("services:\n- name: web\n  portz: []\n", KEY);
    assert!(!ok && text.contains("services.yaml:3:") && text.contains("portz"), "{text}");
}

#[test]
fn an_invalid_key_file_is_told_with_its_line() {
    let (ok, text) = check("services: []\n", "short\n");
    assert!(!ok && text.contains("mesh.key:1:"), "{text}");
}

#[test]
fn a_missing_services_file_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("agent.yaml");
    std::fs::write(&config, "node: n1\ndiscovery: {file: {path: nowhere.yaml}}\n").unwrap();
    let (ok, text) = run(&config);
    assert!(!ok && text.contains("nowhere.yaml") && text.contains("discovery.file.path"), "{text}");
}
