//! What is to be told of Services, and what of it is for this node to write, and when. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::service::NodeName;

use super::appointed::appointed;
use crate::remark::Remark;

/// How long something has to hold before it is told: what is changed in steps is told once, and an agent that starts
/// has met the others by then.
pub(super) const SETTLE: Duration = Duration::from_secs(5);
/// The longest note that the API server takes, in bytes.
const LONGEST: usize = 1024;

/// What kind of thing is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Something that people wrote is not understood.
    NotUnderstood,
    /// Something is left to the proxy below.
    LeftToProxy,
}

/// Something to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// Namespace and name of the Service.
    pub(super) service: Arc<str>,
    /// Which Service of that name.
    pub(super) uid: Box<str>,
    pub(super) kind: Kind,
    pub(super) text: Arc<str>,
    /// Whether it came about under this agent's eyes; else it may have been told before.
    pub(super) is_new: bool,
}

/// What is known to hold of a Service.
#[derive(Debug)]
struct Told {
    uid: Box<str>,
    /// The live node that writes; none while nobody is known to be alive.
    writer: Option<NodeName>,
    notes: BTreeMap<Kind, Pending>,
}

#[derive(Debug)]
struct Pending {
    text: Arc<str>,
    is_new: bool,
    /// When to write it; not at all if it was written, or is another node's.
    due: Option<Instant>,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Notebook {
    me: NodeName,
    /// The live nodes; as long as nobody tells, nothing is written.
    live: Option<BTreeSet<NodeName>>,
    services: BTreeMap<Arc<str>, Told>,
    due: BTreeSet<(Instant, Arc<str>, Kind)>,
}

impl Notebook {
    /// That of a node.
    pub(super) fn new(me: NodeName) -> Notebook {
        Notebook { me, live: None, services: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// Takes all that there is to tell of a Service now. `is_new`: it was otherwise just before.
    pub(super) fn note(
        &mut self,
        now: Instant,
        service: &Arc<str>,
        uid: &str,
        remarks: &[Remark],
        is_new: bool,
    ) {
        let (mut before, writer) = match self.services.remove(service) {
            Some(told) if *told.uid == *uid => (told.notes, told.writer),
            // Another one of that name.
            Some(told) => {
                self.cross_out(service, told.notes);
                (BTreeMap::new(), told.writer)
            }
            None => (BTreeMap::new(), None),
        };
        let mut notes = BTreeMap::new();
        for (kind, text) in texts(remarks) {
            let pending = match before.remove(&kind) {
                Some(same) if *same.text == *text => same,
                other => {
                    self.cross_out(service, other.map(|other| (kind, other)));
                    let due = now + SETTLE;
                    self.due.insert((due, service.clone(), kind));
                    Pending { text: text.into(), is_new, due: Some(due) }
                }
            };
            notes.insert(kind, pending);
        }
        self.cross_out(service, before);
        if !notes.is_empty() {
            let writer = writer.or_else(|| appointed(service, self.live.iter().flatten()).cloned());
            self.services.insert(service.clone(), Told { uid: uid.into(), writer, notes });
        }
    }

    /// Learns who is alive. What falls to this node from one that is gone may not have been written.
    pub(super) fn live(&mut self, now: Instant, live: BTreeSet<NodeName>) {
        let before = self.live.replace(live).unwrap_or_default();
        let Some(live) = &self.live else { return };
        let came: Vec<&NodeName> = live.difference(&before).collect();
        for (service, told) in &mut self.services {
            let stays = told.writer.as_ref().filter(|writer| live.contains(*writer));
            let writer = match stays {
                // Only who came can be before it: the work is in proportion to the change.
                Some(writer) => appointed(service, came.iter().copied().chain([writer])),
                None => appointed(service, live),
            };
            let writer = writer.cloned();
            let is_news = told.writer != writer;
            told.writer = writer;
            if !is_news || told.writer.as_ref() != Some(&self.me) {
                continue;
            }
            for (kind, pending) in told.notes.iter_mut().filter(|(_, pending)| pending.due.is_none()) {
                pending.is_new = false;
                pending.due = Some(now + SETTLE);
                self.due.insert((now + SETTLE, service.clone(), *kind));
            }
        }
    }

    /// What is to be written now; it counts as written.
    pub(super) fn next(&mut self, now: Instant) -> Option<Note> {
        self.live.as_ref()?;
        while self.due.first().is_some_and(|(at, ..)| *at <= now) {
            let (_, service, kind) = self.due.pop_first()?;
            let told = self.services.get_mut(&service)?;
            let is_mine = told.writer.as_ref() == Some(&self.me);
            let pending = told.notes.get_mut(&kind)?;
            pending.due = None;
            if is_mine {
                let (uid, text) = (told.uid.clone(), pending.text.clone());
                return Some(Note { service, uid, kind, text, is_new: pending.is_new });
            }
        }
        None
    }

    /// Has something written later that could not be, if it still holds.
    pub(super) fn again(&mut self, at: Instant, note: &Note) {
        let told = self.services.get_mut(&note.service).filter(|told| told.uid == note.uid);
        let pending = told.and_then(|told| told.notes.get_mut(&note.kind));
        if let Some(pending) = pending.filter(|pending| pending.text == note.text && pending.due.is_none()) {
            pending.due = Some(at);
            self.due.insert((at, note.service.clone(), note.kind));
        }
    }

    /// When the next one is due, if anybody may write at all.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.live.as_ref()?;
        self.due.first().map(|(at, ..)| *at)
    }

    fn cross_out(&mut self, service: &Arc<str>, notes: impl IntoIterator<Item = (Kind, Pending)>) {
        for (kind, pending) in notes {
            if let Some(due) = pending.due {
                self.due.remove(&(due, service.clone(), kind));
            }
        }
    }
}

/// A text for each kind of remark that there is.
fn texts(remarks: &[Remark]) -> BTreeMap<Kind, String> {
    let mut texts: BTreeMap<Kind, String> = BTreeMap::new();
    for remark in remarks {
        let kind = match remark {
            Remark::Problem(_) => Kind::NotUnderstood,
            Remark::Left(_) => Kind::LeftToProxy,
        };
        let text = texts.entry(kind).or_default();
        let more = remark.to_string();
        let between = if text.is_empty() { "" } else { "\n" };
        if text.len() + between.len() + more.len() <= LONGEST - "\n…".len() {
            *text += between;
            *text += &more;
        } else if !text.ends_with('…') {
            // What does not fit is in the agents' logs.
            let end = more.floor_char_boundary(if text.is_empty() { LONGEST - "…".len() } else { 0 });
            *text = format!("{text}{between}{}…", &more[..end]);
        }
    }
    texts
}

#[cfg(test)]
mod tests;
