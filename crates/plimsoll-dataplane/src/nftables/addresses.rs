//! The node's own addresses, as the kernel has them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::{Attribute, Builder, DUMP, Error, Message, Protocol, Socket};

const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`
const GROUPS: [u32; 2] = [5, 9];
/// `struct ifaddrmsg`
const HEADER: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Knows the node's addresses but loopback, and when they change.
#[derive(Debug)]
pub(super) struct Addresses {
    events: Socket,
    requests: Socket,
    current: BTreeSet<IpAddr>,
}

impl Addresses {
    pub(super) fn open() -> Result<Addresses, Error> {
        let events = Socket::open(Protocol::Route)?;
        for group in GROUPS {
            events.join(group)?;
        }
        let mut addresses =
            Addresses { events, requests: Socket::open(Protocol::Route)?, current: BTreeSet::new() };
        addresses.dump()?;
        Ok(addresses)
    }

    pub(super) fn current(&self) -> &BTreeSet<IpAddr> {
        &self.current
    }

    /// Looks again if the kernel said that something changed; whether it did.
    pub(super) fn refresh(&mut self) -> Result<bool, Error> {
        let mut changed = false;
        loop {
            match self.events.receive() {
                Ok(Some(_)) | Err(Error::Overrun) => changed = true,
                Ok(None) => break,
                Err(error) => return Err(error),
            }
        }
        if !changed {
            return Ok(false);
        }
        let before = std::mem::take(&mut self.current);
        self.dump()?;
        Ok(before != self.current)
    }

    fn dump(&mut self) -> Result<(), Error> {
        let mut request = Builder::new();
        request.message(GET_ADDRESS, DUMP, &[0; HEADER], |_| {});
        loop {
            let current = &mut self.current;
            current.clear();
            match self.requests.dump(request.bytes(), |message| current.extend(address_of(&message))) {
                Err(Error::Interrupted) => {}
                other => return other,
            }
        }
    }
}

/// The address in an answer, unless it is loopback's.
pub(super) fn address_of(message: &Message<'_>) -> Option<IpAddr> {
    if message.kind != NEW_ADDRESS {
        return None;
    }
    // On a point-to-point link IFA_ADDRESS is the other end's.
    let attributes = message.attributes(HEADER);
    let attribute = attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?;
    ip(&attribute).filter(|address| !address.is_loopback())
}

fn ip(attribute: &Attribute<'_>) -> Option<IpAddr> {
    match attribute.payload.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(attribute.be32()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(*attribute.payload.first_chunk::<16>()?))),
        _ => None,
    }
}
