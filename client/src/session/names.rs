//! What may be said of names and attributes without asking the master: what it has told this client, as long as a push
//! would have taken it back.
//!
//! The master registers what a session has seen in the moment in which it answers, and tells it of every change by
//! others before it answers them (promise 6); this client's own changes pass here before and after they are made. So
//! what is in the table is the truth while pushes arrive, and that they do shows in answers: the master has sent all that
//! it had to tell before an answer that is not `behind`. A reader says how old that proof may be; behind it lies the
//! master's patience with a client that does not confirm, which is longer.
//!
//! Answers are taken by tasks that may run long after they came in. What was touched since a call was begun, by a push
//! or by another call, is not learnt from its answer. `touched` remembers that by hashes: to find two things in one
//! place only costs a question more.
use crate::Invalidated;
use crate::errno::ENOENT;
use bytes::Bytes;
use cairn_proto::common::{self, ErrorCode};
use cairn_proto::session::{self as wire, answer, call::Request};
use cairn_types::Inode;
use cairn_types::names::cookie;
use rustc_hash::{FxHashMap, FxHasher};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Names and attributes remembered; about 100 and 200 bytes each. One more: all are forgotten.
const NAMES_MAX: usize = 1 << 17;
const ATTRS_MAX: usize = 1 << 16;
const STRIPES: usize = 1 << 12;
/// A call that was given up may still be made for so long: the master gives up before.
const GIVEN_UP_FOR: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(crate) struct Names(Mutex<State>);

#[derive(Default)]
struct State {
    /// Somebody asks.
    wanted: bool,
    /// All that the master had to tell until then has been told, and has taken effect here.
    confirmed: Option<Instant>,
    /// Nothing is believed before.
    doubted_until: Option<Instant>,
    /// Counts what may make an answer that is under way stale.
    clock: u64,
    /// When something under this hash was last touched, and when everything was; by `clock`.
    touched: Vec<u64>,
    all_touched: u64,
    attrs: FxHashMap<Inode, wire::Attr>,
    directories: FxHashMap<Inode, Directory>,
    names: usize,
    /// Calls under way that change names of these directories; of any, under None.
    changing: FxHashMap<Option<Inode>, usize>,
}

#[derive(Default)]
struct Directory {
    /// A name that is not in `names` is not in the directory.
    whole: bool,
    names: BTreeMap<Bytes, Name>,
    /// Where `..` leads, if that is known.
    parent: Option<Inode>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Name {
    Leads(Inode),
    Absent,
    /// Kept where its absence from the table would say something.
    Unknown,
}

/// A call under way, which will be `answered`. One that is dropped was given up: the master may still make it.
pub(super) struct Asked<'a> {
    names: &'a Names,
    /// Begun at this time, by `State::clock`.
    at: u64,
    changes: bool,
    /// What the two names of a rename led to.
    moved: Option<(Name, Name)>,
    request: &'a Request,
    done: bool,
}

#[derive(Hash)]
enum Key<'a> {
    Attr(Inode),
    Name(Inode, &'a [u8]),
    /// All names of a directory.
    Whole(Inode),
}

impl Key<'_> {
    fn stripe(&self) -> usize {
        let mut hasher = FxHasher::default();
        self.hash(&mut hasher);
        (hasher.finish() >> 40) as usize % STRIPES
    }
}

/// The directories whose names a call may change; None: any.
fn renaming(request: &Request) -> impl Iterator<Item = Option<Inode>> {
    let (one, other) = match request {
        Request::Create(c) => (Some(Some(c.parent)), None),
        Request::Link(l) => (Some(Some(l.parent)), None),
        Request::Unlink(u) => (Some(Some(u.parent)), None),
        Request::Rmdir(r) => (Some(Some(r.parent)), None),
        Request::Rename(r) => (Some(Some(r.parent)), Some(Some(r.new_parent))),
        Request::TrashRestore(_) => (Some(None), None),
        _ => (None, None),
    };
    one.into_iter().chain(other).map(|directory| directory.map(Inode))
}

impl Names {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on what the master says is remembered.
    pub fn want(&self) {
        let mut state = self.state();
        state.touched.resize(STRIPES, 0);
        state.wanted = true;
    }

    /// All that the master had to tell until `sent` has been told, and has taken effect here.
    pub fn confirm(&self, sent: Instant) {
        let mut state = self.state();
        state.confirmed = state.confirmed.max(Some(sent));
    }

    /// A stream ended: what the master tells now is not heard.
    pub fn lost(&self) {
        let mut state = self.state();
        state.confirmed = None;
        state.touch_all();
    }

    /// By another client: a push.
    pub fn invalidate(&self, what: &Invalidated) {
        let mut state = self.state();
        match what {
            Invalidated::Inode { ino, .. } => {
                state.touch_attr(*ino);
                state.moved(*ino);
            }
            // of the inodes that it led to and leads to there are pushes of their own
            Invalidated::Entry { parent, name } => state.touch_name(*parent, name),
            Invalidated::Everything => state.touch_all(),
        }
    }

    /// `request` is about to be sent.
    pub(super) fn ask<'a>(&'a self, request: &'a Request) -> Option<Asked<'a>> {
        let mut state = self.state();
        if !state.wanted {
            return None;
        }
        let moved = match request {
            Request::Rename(r) => Some((
                state.find(Inode(r.parent), &r.name),
                state.find(Inode(r.new_parent), &r.new_name),
            )),
            _ => None,
        };
        let changes = state.touch(request);
        for directory in renaming(request) {
            *state.changing.entry(directory).or_default() += 1;
        }
        Some(Asked {
            names: self,
            at: state.clock,
            changes,
            moved,
            request,
            done: false,
        })
    }

    /// What `name` leads to, or `None` for nothing, and how long ago the master would have said otherwise: if that is
    /// known, and was `within`.
    pub fn name(&self, parent: Inode, name: &[u8], within: Duration) -> Option<(Option<wire::Attr>, Duration)> {
        let state = self.state();
        let age = state.age(within)?;
        let attr = match state.find(parent, name) {
            Name::Leads(ino) => Some(*state.attrs.get(&ino)?),
            Name::Absent => None,
            Name::Unknown => return None,
        };
        Some((attr, age))
    }

    /// As `name`.
    pub fn attr(&self, ino: Inode, within: Duration) -> Option<(wire::Attr, Duration)> {
        let state = self.state();
        let age = state.age(within)?;
        Some((*state.attrs.get(&ino)?, age))
    }

    /// Its attributes are known, whether or not that is confirmed, and it has a name.
    pub fn has_file(&self, ino: Inode) -> bool {
        self.state().attrs.get(&ino).is_some_and(|attr| attr.nlink > 0)
    }

    /// All of a directory of at most `most` entries, as `name`.
    pub fn listing(&self, ino: Inode, most: usize, within: Duration) -> Option<(wire::DirectoryPage, Duration)> {
        let state = self.state();
        let age = state.age(within)?;
        let directory = state.directories.get(&ino).filter(|directory| directory.whole)?;
        if directory.names.len() > most {
            return None;
        }
        let mut entries = Vec::with_capacity(directory.names.len());
        for (name, leads) in &directory.names {
            let to = match leads {
                Name::Leads(to) => to,
                Name::Absent => continue,
                Name::Unknown => return None,
            };
            entries.push(wire::Entry {
                name: name.clone(),
                cookie: cookie(name),
                attr: Some(*state.attrs.get(to)?),
            });
        }
        // those of one cookie stay in the order of their names
        entries.sort_by_key(|entry| entry.cookie);
        let page = wire::DirectoryPage {
            entries,
            end: true,
            directory: Some(*state.attrs.get(&ino)?),
            parent: directory.parent?.0,
        };
        Some((page, age))
    }
}

impl<'a> Asked<'a> {
    /// It is no longer under way.
    fn end(&mut self) -> MutexGuard<'a, State> {
        self.done = true;
        let names = self.names;
        let mut state = names.state();
        for directory in renaming(self.request) {
            if let Some(count) = state.changing.get_mut(&directory) {
                *count -= 1;
                if *count == 0 {
                    state.changing.remove(&directory);
                }
            }
        }
        state
    }

    /// `changed`: attributes that came with the answer, of what else the call changed.
    pub fn answered(mut self, answer: std::result::Result<&answer::Result, &common::Error>, changed: &[wire::Attr]) {
        let mut state = self.end();
        let fresh = |state: &State, key: Key<'_>| state.is_untouched(&key, self.at);
        let fresh_name = |state: &State, parent: u64, name: &Bytes| fresh(state, Key::Name(Inode(parent), name));

        // what is to be learnt is told from what was touched before the call's own end is marked
        let mut attrs: Vec<wire::Attr> = Vec::new();
        let mut names: Vec<(Inode, Bytes, Name)> = Vec::new();
        // with where its `..` leads
        let mut whole = None;
        let leads = |attr: &wire::Attr| Name::Leads(Inode(attr.inode));
        let mut learn = |parent: u64, name: &Bytes, leads: Name| names.push((Inode(parent), name.clone(), leads));
        match (self.request, answer) {
            (Request::Lookup(q), Err(e)) if e.code() == ErrorCode::ErrorPosix && e.errno == ENOENT => {
                learn(q.parent, &q.name, Name::Absent);
            }
            (Request::Lookup(q), Ok(answer::Result::Attr(attr))) => {
                learn(q.parent, &q.name, leads(attr));
                attrs.push(*attr);
            }
            (Request::Link(l), Ok(answer::Result::Attr(attr))) => {
                learn(l.parent, &l.name, leads(attr));
                attrs.push(*attr);
            }
            (
                Request::Create(c),
                Ok(answer::Result::Created(wire::Created {
                    attr: Some(attr),
                    existed,
                    ..
                })),
            ) => {
                learn(c.parent, &c.name, leads(attr));
                attrs.push(*attr);
                if attr.kind() == wire::FileKind::KindDirectory && !existed {
                    whole = Some((Inode(attr.inode), Inode(c.parent)));
                }
            }
            (Request::Unlink(u), Ok(_)) => learn(u.parent, &u.name, Name::Absent),
            (Request::Rmdir(r), Ok(_)) => learn(r.parent, &r.name, Name::Absent),
            (Request::Rename(r), Ok(_)) => {
                // where both lead to one inode both stay
                if let Some((moved, replaced)) = self.moved
                    && moved != replaced
                    && moved != Name::Unknown
                    && replaced != Name::Unknown
                {
                    let left = if r.exchange { replaced } else { Name::Absent };
                    learn(r.parent, &r.name, left);
                    learn(r.new_parent, &r.new_name, moved);
                }
            }
            (Request::ReadDir(q), Ok(answer::Result::Directory(page))) => {
                for entry in page.entries.iter().filter(|_| !q.plain) {
                    if let Some(attr) = &entry.attr {
                        learn(q.inode, &entry.name, leads(attr));
                        attrs.push(*attr);
                    }
                }
                attrs.extend(page.directory);
                whole = (q.after == 0 && page.end && !q.plain).then_some((Inode(q.inode), Inode(page.parent)));
            }
            (_, Ok(answer::Result::Attr(attr))) => attrs.push(*attr),
            (_, Ok(answer::Result::Opened(opened))) => attrs.extend(opened.attr),
            (_, Ok(answer::Result::Locations(locations))) => attrs.extend(locations.attr),
            _ => {}
        }
        attrs.extend_from_slice(changed);
        attrs.retain(|attr| fresh(&state, Key::Attr(Inode(attr.inode))));
        let whole = whole.filter(|(ino, _)| fresh(&state, Key::Whole(*ino)) && !state.is_changing(*ino));
        // the attributes of a directory that moves are touched
        let parent_fresh = whole.is_some_and(|(ino, _)| fresh(&state, Key::Attr(ino)));
        names.retain_mut(|(parent, name, leads)| {
            let fresh = fresh_name(&state, parent.0, name);
            if !fresh {
                // in a directory that is known whole it must not pass for absent
                *leads = Name::Unknown;
            }
            // `..` is the name of another directory, which moves
            name != ".." && (fresh || whole.is_some_and(|(ino, _)| ino == *parent))
        });

        // answers that are under way may be of before the change or of after it
        state.touch(self.request);
        for attr in changed {
            state.touch_attr(Inode(attr.inode));
            if matches!(self.request, Request::Rename(_)) {
                state.moved(Inode(attr.inode));
            }
        }
        if let Some((ino, parent)) = whole {
            state.set_whole(ino, parent_fresh.then_some(parent));
        }
        for (parent, name, leads) in names {
            state.set_name(parent, &name, leads);
        }
        for attr in attrs {
            state.attrs.insert(Inode(attr.inode), attr);
        }
        state.keep_within_bounds();
    }

    /// Not sent: nothing was asked.
    pub fn unsent(mut self) {
        drop(self.end());
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.end();
            if self.changes {
                state.touch_all();
                state.doubted_until = Some(Instant::now() + GIVEN_UP_FOR);
            }
        }
    }
}

impl State {
    fn age(&self, within: Duration) -> Option<Duration> {
        let now = Instant::now();
        if self.doubted_until.is_some_and(|until| now < until) {
            return None;
        }
        let age = now.saturating_duration_since(self.confirmed?);
        (age <= within).then_some(age)
    }

    fn find(&self, parent: Inode, name: &[u8]) -> Name {
        let Some(directory) = self.directories.get(&parent) else {
            return Name::Unknown;
        };
        let absent = if directory.whole { Name::Absent } else { Name::Unknown };
        directory.names.get(name).copied().unwrap_or(absent)
    }

    fn set_name(&mut self, parent: Inode, name: &[u8], leads: Name) {
        let directory = self.directories.entry(parent).or_default();
        let default = if directory.whole { Name::Absent } else { Name::Unknown };
        let before = directory.names.len();
        if leads == default {
            directory.names.remove(name);
        } else if let Some(known) = directory.names.get_mut(name) {
            *known = leads;
        } else {
            directory.names.insert(Bytes::copy_from_slice(name), leads);
        }
        let after = directory.names.len();
        if after == 0 && !directory.whole {
            self.directories.remove(&parent);
        }
        self.names = self.names + after - before;
    }

    /// Its names follow; nothing has touched any since they were listed.
    fn set_whole(&mut self, ino: Inode, parent: Option<Inode>) {
        let directory = self.directories.entry(ino).or_default();
        directory.whole = true;
        directory.parent = parent;
        self.names -= directory.names.len();
        directory.names.clear();
    }

    /// A call that is under way may make a name, or already has.
    fn is_changing(&self, directory: Inode) -> bool {
        self.changing.contains_key(&Some(directory)) || self.changing.contains_key(&None)
    }

    /// Where its `..` leads is no longer known.
    fn moved(&mut self, ino: Inode) {
        if let Some(directory) = self.directories.get_mut(&ino) {
            directory.parent = None;
        }
    }

    fn keep_within_bounds(&mut self) {
        if self.names > NAMES_MAX || self.attrs.len() > ATTRS_MAX || self.directories.len() > ATTRS_MAX {
            self.forget_all();
        }
    }

    fn forget_all(&mut self) {
        self.attrs.clear();
        self.directories.clear();
        self.names = 0;
    }

    fn mark(&mut self, key: &Key<'_>) {
        self.clock += 1;
        if let Some(touched) = self.touched.get_mut(key.stripe()) {
            *touched = self.clock;
        }
    }

    /// Nothing has touched it since a call was begun `at`.
    fn is_untouched(&self, key: &Key<'_>, at: u64) -> bool {
        self.all_touched <= at && self.touched.get(key.stripe()).is_some_and(|touched| *touched <= at)
    }

    fn touch_attr(&mut self, ino: Inode) {
        self.mark(&Key::Attr(ino));
        self.attrs.remove(&ino);
    }

    fn touch_name(&mut self, parent: Inode, name: &[u8]) {
        self.mark(&Key::Name(parent, name));
        self.mark(&Key::Whole(parent));
        self.set_name(parent, name, Name::Unknown);
    }

    fn touch_all(&mut self) {
        self.clock += 1;
        self.all_touched = self.clock;
        self.forget_all();
    }

    /// Forgets what the call changes. False: it changes nothing.
    fn touch(&mut self, request: &Request) -> bool {
        match request {
            Request::Lookup(_)
            | Request::GetAttr(_)
            | Request::ReadDir(_)
            | Request::ReadLink(_)
            | Request::GetXattr(_)
            | Request::ListXattr(_)
            | Request::StatFs(_)
            | Request::Resolve(_)
            | Request::Locate(_)
            | Request::PathOf(_)
            | Request::TrashList(_)
            | Request::Complain(_)
            | Request::Goodbye(_) => return false,
            Request::Open(open) if !open.truncate => return false,
            Request::Open(open) => self.touch_attr(Inode(open.inode)),
            Request::SetAttr(s) => self.touch_attr(Inode(s.inode)),
            Request::SetXattr(s) => self.touch_attr(Inode(s.inode)),
            Request::RemoveXattr(r) => self.touch_attr(Inode(r.inode)),
            Request::Allocate(a) => self.touch_attr(Inode(a.inode)),
            Request::Commit(c) => self.touch_attr(Inode(c.inode)),
            Request::SetGoal(g) => self.touch_attr(Inode(g.inode)),
            Request::Create(c) => self.touch_entry(c.parent, &c.name),
            Request::Link(l) => {
                self.touch_attr(Inode(l.inode));
                self.touch_entry(l.parent, &l.name);
            }
            Request::Unlink(u) => self.touch_entry(u.parent, &u.name),
            Request::Rmdir(r) => self.touch_entry(r.parent, &r.name),
            Request::Rename(r) => {
                self.touch_entry(r.parent, &r.name);
                self.touch_entry(r.new_parent, &r.new_name);
            }
            Request::TrashRestore(_) | Request::TrashEmpty(_) => self.touch_all(),
        }
        true
    }

    /// The name, and the times of its directory.
    fn touch_entry(&mut self, parent: u64, name: &[u8]) {
        self.touch_name(Inode(parent), name);
        self.touch_attr(Inode(parent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DIR: Inode = Inode(2);

    fn attr(inode: u64, nlink: u32) -> wire::Attr {
        wire::Attr {
            inode,
            nlink,
            kind: wire::FileKind::KindRegular.into(),
            ..Default::default()
        }
    }

    fn names() -> Names {
        let names = Names::default();
        names.want();
        names.confirm(Instant::now());
        names
    }

    fn lookup(name: &'static str) -> Request {
        Request::Lookup(wire::Lookup {
            parent: DIR.0,
            name: name.into(),
        })
    }

    fn create(name: &'static str) -> Request {
        Request::Create(wire::Create {
            parent: DIR.0,
            name: name.into(),
            ..Default::default()
        })
    }

    fn created(inode: u64) -> answer::Result {
        answer::Result::Created(wire::Created {
            attr: Some(attr(inode, 1)),
            ..Default::default()
        })
    }

    fn unlink(name: &'static str) -> Request {
        Request::Unlink(wire::Unlink {
            parent: DIR.0,
            name: name.into(),
        })
    }

    fn rename(from: &'static str, to: &'static str) -> Request {
        Request::Rename(wire::Rename {
            parent: DIR.0,
            name: from.into(),
            new_parent: DIR.0,
            new_name: to.into(),
            ..Default::default()
        })
    }

    fn done() -> answer::Result {
        answer::Result::Done(wire::Done {})
    }

    fn make(names: &Names, request: &Request, result: &answer::Result) {
        names.ask(request).unwrap().answered(Ok(result), &[]);
    }

    /// Some(Some(inode)), Some(None) for absent, None for unknown.
    fn find(names: &Names, name: &str) -> Option<Option<u64>> {
        let (attr, _) = names.name(DIR, name.as_bytes(), SECOND)?;
        Some(attr.map(|attr| attr.inode))
    }

    fn whole_directory(names: &Names) {
        let list = Request::ReadDir(wire::ReadDir {
            inode: DIR.0,
            ..Default::default()
        });
        let page = wire::DirectoryPage {
            end: true,
            ..Default::default()
        };
        make(names, &list, &answer::Result::Directory(page));
    }

    fn changed(name: &'static str) -> Invalidated {
        Invalidated::Entry {
            parent: DIR,
            name: name.into(),
        }
    }

    #[test]
    fn a_name_that_is_not_in_a_directory_seen_whole_is_absent() {
        let names = names();
        assert_eq!(find(&names, "a"), None);
        whole_directory(&names);
        assert_eq!(find(&names, "a"), Some(None));
        make(&names, &create("a"), &created(10));
        assert_eq!(find(&names, "a"), Some(Some(10)));
        make(&names, &rename("a", "b"), &done());
        assert_eq!(find(&names, "a"), Some(None));
        assert_eq!(names.state().find(DIR, b"b"), Name::Leads(Inode(10)));
        make(&names, &unlink("b"), &done());
        assert_eq!(find(&names, "b"), Some(None));
        // what others do is asked
        names.invalidate(&changed("c"));
        assert_eq!(find(&names, "c"), None);
        assert_eq!(find(&names, "d"), Some(None));
        make(&names, &lookup("c"), &answer::Result::Attr(attr(11, 1)));
        assert_eq!(find(&names, "c"), Some(Some(11)));
    }

    #[test]
    fn a_directory_that_this_client_made_is_whole() {
        let names = names();
        let made = answer::Result::Created(wire::Created {
            attr: Some(wire::Attr {
                kind: wire::FileKind::KindDirectory.into(),
                ..attr(DIR.0, 2)
            }),
            ..Default::default()
        });
        let mkdir = Request::Create(wire::Create {
            parent: 1,
            name: "dir".into(),
            ..Default::default()
        });
        let asked = names.ask(&mkdir).unwrap();
        // somebody has found it already, and made something there
        names.invalidate(&changed("theirs"));
        asked.answered(Ok(&made), &[]);
        assert_eq!(find(&names, "theirs"), None);
        make(&names, &mkdir, &made);
        assert_eq!(find(&names, "ours"), Some(None));
    }

    #[test]
    fn an_answer_that_a_push_or_a_call_has_overtaken_is_not_learnt() {
        let names = names();
        let request = lookup("a");
        let asked = names.ask(&request).unwrap();
        names.invalidate(&changed("a"));
        let error = common::Error::posix(ENOENT, "no");
        asked.answered(Err(&error), &[]);
        assert_eq!(find(&names, "a"), None);

        let asked = names.ask(&request).unwrap();
        names.invalidate(&Invalidated::Inode {
            ino: Inode(10),
            data: false,
        });
        asked.answered(Ok(&answer::Result::Attr(attr(10, 1))), &[]);
        assert_eq!(names.state().find(DIR, b"a"), Name::Leads(Inode(10)));
        assert_eq!(find(&names, "a"), None, "its attributes are old");

        // asked before our own call was made, answered behind it
        let asked = names.ask(&request).unwrap();
        make(&names, &unlink("a"), &done());
        asked.answered(Ok(&answer::Result::Attr(attr(10, 1))), &[]);
        assert_eq!(find(&names, "a"), Some(None));

        // two changes at a time: nobody knows which was the later
        let (one, two) = (create("a"), unlink("a"));
        let (first, second) = (names.ask(&one).unwrap(), names.ask(&two).unwrap());
        second.answered(Ok(&done()), &[]);
        first.answered(Ok(&created(12)), &[]);
        assert_eq!(find(&names, "a"), None);
    }

    fn list() -> Request {
        Request::ReadDir(wire::ReadDir {
            inode: DIR.0,
            ..Default::default()
        })
    }

    fn page(entries: &[(&'static str, u64)]) -> answer::Result {
        let entry = |(name, inode): &(&'static str, u64)| wire::Entry {
            name: (*name).into(),
            cookie: cookie(name.as_bytes()),
            attr: Some(attr(*inode, 1)),
        };
        answer::Result::Directory(wire::DirectoryPage {
            entries: entries.iter().map(entry).collect(),
            end: true,
            directory: Some(attr(DIR.0, 2)),
            parent: 1,
        })
    }

    /// Names and inodes, `..` last.
    fn listed(names: &Names) -> Option<Vec<(Bytes, u64)>> {
        let (page, _) = names.listing(DIR, 3, SECOND)?;
        assert!(page.end && page.entries.is_sorted_by_key(|entry| entry.cookie));
        let entry = |entry: wire::Entry| (entry.name, entry.attr.unwrap().inode);
        let mut entries: Vec<_> = page.entries.into_iter().map(entry).collect();
        entries.sort();
        entries.push(("..".into(), page.parent));
        Some(entries)
    }

    #[test]
    fn a_directory_is_listed_while_all_of_it_is_known() {
        let names = names();
        let (a, b, up) = (("a".into(), 10), ("b".into(), 11), ("..".into(), 1));
        make(&names, &lookup("a"), &answer::Result::Attr(attr(10, 1)));
        assert_eq!(listed(&names), None, "there may be others");
        make(&names, &list(), &page(&[("a", 10)]));
        assert_eq!(listed(&names), Some(vec![a.clone(), up.clone()]));
        let directory = attr(DIR.0, 2);
        let asked = create("b");
        names.ask(&asked).unwrap().answered(Ok(&created(11)), &[directory]);
        assert_eq!(listed(&names), Some(vec![a.clone(), b.clone(), up.clone()]));
        // others' changes: of a name, of an inode, of the directory
        names.invalidate(&changed("c"));
        assert_eq!(listed(&names), None);
        make(&names, &list(), &page(&[("a", 10), ("b", 11)]));
        assert_eq!(listed(&names), Some(vec![a, b.clone(), up.clone()]), "c has gone");
        for ino in [Inode(11), DIR] {
            names.invalidate(&Invalidated::Inode { ino, data: false });
            assert_eq!(listed(&names), None);
            make(&names, &list(), &page(&[("b", 11)]));
            assert_eq!(listed(&names), Some(vec![b.clone(), up.clone()]));
        }
        // it moves, by a call of this client
        let request = rename("elsewhere", "here");
        let asked = names.ask(&request).unwrap();
        asked.answered(Ok(&done()), &[directory]);
        assert_eq!(listed(&names), None);
        // a page more than is wanted
        make(&names, &list(), &page(&[("a", 10), ("b", 11), ("c", 12), ("d", 13)]));
        assert_eq!(listed(&names), None);
    }

    #[test]
    fn what_a_call_under_way_may_make_is_not_absent_because_a_listing_lacks_it() {
        let names = names();
        for known in [false, true] {
            if known {
                make(&names, &list(), &page(&[("a", 10)]));
            }
            let (request, query) = (create("b"), list());
            let creating = names.ask(&request).unwrap();
            names.ask(&query).unwrap().answered(Ok(&page(&[("a", 10)])), &[]);
            assert_eq!((find(&names, "a"), find(&names, "b")), (Some(Some(10)), None));
            assert_eq!(listed(&names), None);
            creating.answered(Ok(&created(11)), &[attr(DIR.0, 2)]);
            assert_eq!(find(&names, "b"), Some(Some(11)));
            assert_eq!(listed(&names).is_some(), known);
            names.invalidate(&changed("b"));
        }
    }

    /// What is touched meanwhile may share its place with a name that is in the directory.
    #[test]
    fn a_name_that_is_not_learnt_with_its_directory_is_not_absent() {
        let names = names();
        let list = Request::ReadDir(wire::ReadDir {
            inode: DIR.0,
            ..Default::default()
        });
        let there = Bytes::from_static(b"there");
        let elsewhere = Inode(3);
        let stripe = Key::Name(DIR, &there).stripe();
        let same = (0..)
            .map(|n| Bytes::from(format!("{n}")))
            .find(|name| Key::Name(elsewhere, name).stripe() == stripe);
        let page = wire::DirectoryPage {
            entries: vec![wire::Entry {
                name: there,
                attr: Some(attr(10, 1)),
                ..Default::default()
            }],
            end: true,
            ..Default::default()
        };
        let asked = names.ask(&list).unwrap();
        names.invalidate(&Invalidated::Entry {
            parent: elsewhere,
            name: same.unwrap(),
        });
        asked.answered(Ok(&answer::Result::Directory(page)), &[]);
        assert_eq!(find(&names, "there"), None);
        assert_eq!(find(&names, "another"), Some(None));
    }

    #[test]
    fn what_came_with_an_answer_replaces_what_was_known_of_other_inodes() {
        let names = names();
        make(&names, &lookup("a"), &answer::Result::Attr(attr(10, 2)));
        // another name of it, which nobody had asked for
        let request = unlink("b");
        let asked = names.ask(&request).unwrap();
        asked.answered(Ok(&done()), &[attr(10, 1), attr(DIR.0, 2)]);
        assert_eq!(names.attr(Inode(10), SECOND).unwrap().0.nlink, 1);
        assert!(names.attr(DIR, SECOND).is_some());
    }

    #[test]
    fn two_names_of_one_file_may_both_stay_when_one_is_renamed_to_the_other() {
        let names = names();
        for name in ["a", "b"] {
            make(&names, &lookup(name), &answer::Result::Attr(attr(10, 2)));
        }
        make(&names, &rename("a", "b"), &done());
        assert_eq!((find(&names, "a"), find(&names, "b")), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_said_that_the_master_has_not_confirmed_lately() {
        let names = names();
        whole_directory(&names);
        tokio::time::advance(SECOND).await;
        assert_eq!(names.name(DIR, b"a", SECOND).unwrap().1, SECOND);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(find(&names, "a"), None);
        names.confirm(Instant::now());
        assert_eq!(find(&names, "a"), Some(None));
        names.lost();
        names.confirm(Instant::now());
        assert_eq!(find(&names, "a"), None, "pushes may have been lost with the stream");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_given_up_may_be_made_later_so_nothing_is_believed_for_long() {
        let names = names();
        drop(names.ask(&lookup("a")));
        whole_directory(&names);
        assert_eq!(find(&names, "a"), Some(None), "a query changes nothing");
        names.ask(&create("a")).unwrap().unsent();
        drop(names.ask(&create("a")));
        whole_directory(&names);
        names.confirm(Instant::now());
        assert_eq!(find(&names, "a"), None);
        tokio::time::advance(GIVEN_UP_FOR).await;
        names.confirm(Instant::now());
        assert_eq!(find(&names, "a"), Some(None));
    }

    #[test]
    fn memory_is_bounded() {
        let names = names();
        whole_directory(&names);
        for n in 0..=ATTRS_MAX as u64 {
            make(&names, &create("a"), &created(n + 10));
        }
        let state = names.state();
        assert!(state.attrs.len() <= ATTRS_MAX && state.names <= NAMES_MAX);
    }
}
