//! The connections that end: DESTROY events, on a thread that empties the socket before it is full.
//!
//! Only this group is joined: these events are made outside the packet path and cost new connections nothing,
//! where NEW events would double the price of each.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Entry;
use crate::netlink::{Error, Protocol, Socket, messages};

pub(super) const DESTROY_GROUP: u32 = 3;
/// Of the network namespace of the thread that reads it; not there before conntrack is.
const SWITCH: &str = "/proc/sys/net/netfilter/nf_conntrack_events";
/// A burst of about this many bytes may wait; an event takes 500 to 800 in the kernel's reckoning.
pub const RECEIVE_BUFFER: usize = 16 << 20;
/// Events that matter are few; more of them than this between two reads count as lost.
const MOST: usize = 1 << 20;

/// What was heard since the last time.
#[derive(Debug, Default)]
pub struct Ended {
    /// Connections that ended, as far as they were wanted.
    pub entries: Vec<Entry>,
    /// The kernel had more to tell than could be kept: others ended too.
    pub lost: bool,
}

struct Listener {
    socket: Socket,
    wanted: Box<dyn Fn(&Entry) -> bool + Send>,
    ended: Ended,
    broken: Option<Error>,
}

/// Hears of connections that end, in the network namespace of the thread that opened it.
///
/// It must be open before what is to be heard of begins: since kernel 5.19 connections that begin while nobody
/// listens end in silence (`net.netfilter.nf_conntrack_events` = 2).
pub struct Events {
    listener: Arc<Mutex<Listener>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Events {
    /// Begins to listen; what `wanted` refuses is dropped at once. `receive_buffer` is in bytes.
    pub fn open(
        receive_buffer: usize,
        wanted: impl Fn(&Entry) -> bool + Send + 'static,
    ) -> Result<Events, Error> {
        let mut events = Events::open_unattended(receive_buffer, wanted)?;
        let waiting = events.lock().socket.as_fd().try_clone_to_owned();
        let waiting = waiting.map_err(|source| Error::Io { what: "share the event socket", source })?;
        let (listener, stop) = (Arc::clone(&events.listener), Arc::clone(&events.stop));
        let thread = std::thread::Builder::new().name("conntrack-ended".into());
        let thread = thread.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let soon = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                let _ = poll(&mut [PollFd::new(&waiting, PollFlags::IN)], Some(&soon));
                let mut listener = listener.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                listener.empty();
                if listener.broken.is_some() {
                    return;
                }
            }
        });
        events.thread = Some(thread.map_err(|source| Error::Io { what: "start a thread", source })?);
        Ok(events)
    }

    /// The same without a thread: events wait in the socket until [`take`](Events::take).
    pub fn open_unattended(
        receive_buffer: usize,
        wanted: impl Fn(&Entry) -> bool + Send + 'static,
    ) -> Result<Events, Error> {
        check_switch()?;
        let socket = Socket::open(Protocol::Netfilter)?;
        socket.set_buffers(receive_buffer, 4096)?;
        socket.join(DESTROY_GROUP)?;
        let listener = Listener { socket, wanted: Box::new(wanted), ended: Ended::default(), broken: None };
        Ok(Events { listener: Arc::new(Mutex::new(listener)), stop: Arc::default(), thread: None })
    }

    /// Everything that ended before this call and was not taken yet.
    pub fn take(&mut self) -> Result<Ended, Error> {
        let mut listener = self.lock();
        // What the thread has not come to yet: an entry's event is in the socket before the entry is gone.
        listener.empty();
        match listener.broken.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut listener.ended)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listener> {
        self.listener.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Fails where events are switched off: the kernel lets anyone join the group, and then stays silent.
pub(super) fn check_switch() -> Result<(), Error> {
    if std::fs::read_to_string(SWITCH).is_ok_and(|value| value.trim() == "0") {
        let source = std::io::Error::other("net.netfilter.nf_conntrack_events is 0; set it to 1 or 2");
        return Err(Error::Io { what: "hear of connections that end", source });
    }
    Ok(())
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Listener {
    fn empty(&mut self) {
        while self.broken.is_none() {
            match self.socket.receive() {
                Ok(None) => return,
                Ok(Some(bytes)) => {
                    let entries = messages(bytes).filter_map(|message| Entry::parse(&message));
                    for entry in entries.filter(|entry| (self.wanted)(entry)) {
                        if self.ended.entries.len() < MOST {
                            self.ended.entries.push(entry);
                        } else {
                            self.ended.lost = true;
                        }
                    }
                }
                Err(Error::Overrun) => self.ended.lost = true,
                Err(error) => self.broken = Some(error),
            }
        }
    }
}
