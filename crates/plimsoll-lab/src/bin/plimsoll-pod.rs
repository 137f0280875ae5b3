//! What the Pods of the laboratory run: a server that becomes unready on request, and the pause that holds a Pod's
//! network.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::server::{Behaviour, Server};

/// Where it serves, and where it is answered while it is ready.
const PORTS: [u16; 2] = [8080, 8081];
/// As long as this is there it is not ready.
const UNREADY: &str = "/unready";
const USAGE: &str = "plimsoll-pod serve    serves at port 8080, answers at port 8081 while it is ready
plimsoll-pod unready  is not ready from now on
plimsoll-pod ready    is ready again
plimsoll-pod          waits until it is killed";

fn main() -> ExitCode {
    let word = std::env::args().nth(1);
    let done = match word.as_deref() {
        None => loop {
            std::thread::park();
        },
        Some("serve") => serve(),
        Some("unready") => std::fs::write(UNREADY, "").map_err(Into::into),
        Some("ready") => std::fs::remove_file(UNREADY).map_err(Into::into),
        Some(other) => Err(format!("there is no `{other}`:\n{USAGE}").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// As the first process of its container it does not end when asked to: it serves until it is killed, which is when its
/// Pod's period of grace is over.
fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::var("HOSTNAME").map_err(|_| "no HOSTNAME: this is not a Pod")?;
    let here = Namespace::current()?;
    let [server, ready] = PORTS
        .map(|port| Server::start(&here, &name, &[SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)]));
    let (_server, ready) = (server?, ready?);
    let mut is_ready = true;
    loop {
        if is_ready == Path::new(UNREADY).exists() {
            is_ready = !is_ready;
            ready.behave(if is_ready { Behaviour::Serve } else { Behaviour::Refuse });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
