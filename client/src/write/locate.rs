//! Where chunks are: asked of the master in batches, kept by the file until a server or a push says otherwise.
use crate::core::{Core, mismatch};
use crate::limits::LOCATE_AHEAD;
use crate::node::{Node, Slot};
use crate::{Attr, Error, Location, Result};
use cairn_proto::session::{Allocate, Complain, Locate, Locations, answer, call::Request};
use cairn_types::Inode;
use cairn_types::layout::chunk_count;
use std::sync::Arc;
use std::time::Duration;

impl Core {
    /// The chunks of [first, first + count) that exist, and the file's attributes at that moment.
    pub async fn ask_locations(
        &self,
        ino: Inode,
        first: u32,
        count: u32,
        for_write: bool,
        within: Duration,
    ) -> Result<(Vec<Arc<Location>>, Option<Attr>)> {
        let request = Request::Locate(Locate {
            inode: ino.0,
            first,
            count,
            for_write,
        });
        self.locations_of(self.session.call(request, within).await?)
    }

    fn locations_of(&self, answer: answer::Result) -> Result<(Vec<Arc<Location>>, Option<Attr>)> {
        let answer::Result::Locations(Locations { chunks, attr }) = answer else {
            return Err(mismatch(self, "locations"));
        };
        let chunks = chunks
            .into_iter()
            .map(|chunk| Location::try_from(chunk).map(Arc::new))
            .collect::<std::result::Result<_, _>>();
        let attr = attr.map(Attr::try_from).transpose();
        Ok((
            chunks.map_err(|e| self.malformed(e))?,
            attr.map_err(|e| self.malformed(e))?,
        ))
    }

    /// Where chunk `index` is as the master has it now, for a reader; `None`: a hole. `anew`: not for the first time.
    pub async fn locate_for_read(
        &self,
        node: &Node,
        index: u32,
        anew: bool,
        within: Duration,
    ) -> Result<Option<Arc<Location>>> {
        let count = match anew {
            true => 1,
            false => (chunk_count(node.state().size()).saturating_sub(index)).clamp(1, LOCATE_AHEAD),
        };
        let epoch = node.state().epoch;
        let (found, attr) = self.ask_locations(node.ino, index, count, false, within).await?;
        let wanted = found.iter().find(|location| location.index == index).cloned();
        let mut state = node.state();
        if wanted.is_none() {
            state.slots.remove(&index);
        }
        for location in found {
            // a push that came in between may speak of what this answer did not know yet
            if state.epoch == epoch || location.index == index {
                state.place(location, false);
            }
        }
        if let Some(attr) = attr {
            state.learn(attr, true);
        }
        drop(state);
        node.progress.notify_waiters();
        Ok(wanted)
    }

    /// Where chunk `index` is, for a writer: found, or allocated.
    pub(super) async fn locate_for_write(&self, node: &Node, index: u32, within: Duration) -> Result<Arc<Location>> {
        let known = |node: &Node| match node.state().slots.get(&index) {
            Some(Slot {
                location,
                writable: true,
            }) => Some(location.clone()),
            _ => None,
        };
        if let Some(location) = known(node) {
            return Ok(location);
        }
        let _one = node.allocating.lock().await;
        if let Some(location) = known(node) {
            return Ok(location);
        }
        // also if its answer is lost
        node.state().writing = true;
        if node.state().within_size(index) {
            let (found, _) = self.ask_locations(node.ino, index, 1, true, within).await?;
            if let Some(location) = found.into_iter().find(|location| location.index == index) {
                self.bind(node, &location, false);
                return Ok(location);
            }
        }
        // all that wait for a chunk behind this one come along
        let count = {
            let state = node.state();
            let waits = |i: &u32| {
                state.chunks.contains_key(i) && !state.slots.contains_key(i) && !state.within_size(*i) && *i != index
            };
            1 + (index + 1..index + LOCATE_AHEAD).take_while(waits).count() as u32
        };
        self.learn_name(node).await;
        let request = Request::Allocate(Allocate {
            inode: node.ino.0,
            first: index,
            count,
        });
        let (found, attr) = self.locations_of(self.session.call(request, within).await?)?;
        let existing = attr.as_ref().map_or(0, |attr| chunk_count(attr.size));
        let mut wanted = None;
        for location in found {
            if (index..index + count).contains(&location.index) {
                // one within the file's size was missing a moment ago, or this one is not the one asked about
                self.bind(node, &location, location.index == index || location.index >= existing);
                if location.index == index {
                    wanted = Some(location);
                }
            }
        }
        wanted.ok_or_else(|| Error::Malformed {
            server: self.master(),
            what: format!("it allocated chunk {index} of {} and did not say where", node.label()),
        })
    }

    /// What the location of a chunk means for what is to be written to it. `new`: it has just been allocated.
    pub(super) fn bind(&self, node: &Node, location: &Arc<Location>, new: bool) {
        let mut state = node.state();
        state.writing = true;
        state.place(location.clone(), true);
        let chunk = state.chunks.entry(location.index).or_default();
        let before = chunk.last_sequence();
        chunk.bind(
            location.handle,
            || if new { 0 } else { self.last_sequence(location.handle) },
            location.granted,
        );
        drop(state);
        // its loss may have come to light
        node.progress.notify_waiters();
        if let Some((handle, last)) = before.filter(|(handle, _)| *handle != location.handle) {
            self.remember_sequence(handle, last);
        }
    }

    /// The grant of chunk 0 that came with the file's creation.
    pub fn granted(&self, node: &Node, location: &Arc<Location>) {
        self.bind(node, location, true);
    }

    /// Grants carry the file's name, for the rescue of its chunks: worth one call a file, not a failure.
    async fn learn_name(&self, node: &Node) {
        if node.state().name.is_empty()
            && let Ok(path) = self.path_of(node.ino, Duration::from_secs(2)).await
        {
            let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            node.state().name = path.slice_ref(name);
        }
    }

    /// Tells the master what a member did; gives the chunk's location once it is fit for writing again, `None` when the
    /// file no longer has it (protocol R8, R12).
    pub(super) async fn complain_for_write(
        &self,
        node: &Node,
        complaint: Complain,
        index: u32,
        within: Duration,
    ) -> Result<Option<Arc<Location>>> {
        let handle = complaint.handle;
        let answer = self.session.call(Request::Complain(complaint), within).await?;
        let (found, _) = self.locations_of(answer)?;
        let location = found.into_iter().find(|l| l.index == index && l.handle.0 == handle);
        match &location {
            Some(location) => self.bind(node, location, false),
            None => {
                node.state().slots.remove(&index);
            }
        }
        Ok(location)
    }
}
