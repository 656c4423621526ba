//! Paths in the cluster, as the command line names them.
use crate::failure::{Failure, Result};
use crate::output;
use bytes::Bytes;
use cairn_types::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// `cairn:` before a path says that it is in the cluster, where that is not clear anyway.
pub const SCHEME: &str = "cairn:";

/// An absolute path in the cluster, without empty names, `.` and `..` (which is taken back by name, as `realpath -L`
/// does it).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterPath {
    bytes: Vec<u8>,
    /// Written with a slash, or `/.`, at its end: the contents are meant.
    pub trailing_slash: bool,
}

impl ClusterPath {
    pub fn root() -> Self {
        Self {
            bytes: b"/".to_vec(),
            trailing_slash: true,
        }
    }

    /// `/path` or `cairn:/path`.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let bytes = bytes.strip_prefix(SCHEME.as_bytes()).unwrap_or(bytes);
        let shown = output::name(bytes);
        if !bytes.starts_with(b"/") {
            return Err(Failure::usage(format_args!(
                "{shown}: paths in the cluster begin with a slash; write /{shown}"
            )));
        }
        if bytes.contains(&0) {
            return Err(Failure::usage(format_args!("{shown}: a path has no zero byte")));
        }
        let mut names: Vec<&[u8]> = vec![];
        for name in bytes.split(|b| *b == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    names.pop();
                }
                name if name.len() > NAME_BYTES_MAX => {
                    return Err(Failure::new(
                        shown,
                        format_args!("a name has at most {NAME_BYTES_MAX} bytes"),
                    ));
                }
                name => names.push(name),
            }
        }
        let mut path = Vec::with_capacity(bytes.len());
        for name in names {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(Failure::new(
                shown,
                format_args!("a path has at most {PATH_BYTES_MAX} bytes"),
            ));
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(Self {
            trailing_slash: bytes.ends_with(b"/") || bytes.ends_with(b"/."),
            bytes: path,
        })
    }

    /// The same, as if it were written with a slash at its end or without.
    pub fn with_slash(mut self, trailing_slash: bool) -> Self {
        self.trailing_slash = trailing_slash;
        self
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_root(&self) -> bool {
        self.bytes == b"/"
    }

    /// The last name; empty for the root.
    pub fn name(&self) -> Bytes {
        let last = self.bytes.rsplit(|b| *b == b'/').next().unwrap_or_default();
        Bytes::copy_from_slice(last)
    }

    /// The directory that it is in; the root is in itself.
    pub fn parent(&self) -> Self {
        let end = self.bytes.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Self {
            bytes: self.bytes[..end.max(1)].to_vec(),
            trailing_slash: false,
        }
    }

    pub fn join(&self, name: &[u8]) -> Self {
        let mut bytes = self.bytes.clone();
        if !self.is_root() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self {
            bytes,
            trailing_slash: false,
        }
    }

    /// Its names from the root.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.split(|b| *b == b'/').filter(|n| !n.is_empty())
    }
}

impl fmt::Display for ClusterPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&output::name(&self.bytes))
    }
}
impl fmt::Debug for ClusterPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterPath({self})")
    }
}

/// Whether `name` matches the shell pattern: `*` any text, `?` one byte, `[a-z]` and `[!a-z]` one of a set, `\` takes
/// the next character as it is.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // where to go on after the last `*`, which then takes one byte more
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            None => (n == name.len()).then_some((p, n)),
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(_) => name
                .get(n)
                .and_then(|byte| matches_one(pattern, p, *byte))
                .map(|p| (p, n + 1)),
        };
        match (step, &mut retry) {
            (Some((end, at)), _) if end == pattern.len() && at == name.len() => return true,
            (Some((next_p, next_n)), _) if next_p > p => (p, n) = (next_p, next_n),
            (_, Some((after_star, taken))) if *taken < name.len() => {
                *taken += 1;
                (p, n) = (*after_star, *taken);
            }
            _ => return false,
        }
    }
}

/// The place in the pattern behind the element at `p`, if that takes `byte`.
fn matches_one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match pattern[p] {
        b'?' => Some(p + 1),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        b'[' => {
            let negated = matches!(pattern.get(p + 1), Some(b'!' | b'^'));
            let start = p + 1 + usize::from(negated);
            // a `]` right at the start is a member
            let end = pattern
                .iter()
                .skip(start + 1)
                .position(|b| *b == b']')
                .map(|i| i + start + 1);
            let Some(end) = end else {
                return (byte == b'[').then_some(p + 1);
            };
            let set = &pattern[start..end];
            let mut found = false;
            let mut i = 0;
            while i < set.len() {
                if i + 2 < set.len() && set[i + 1] == b'-' {
                    found |= (set[i]..=set[i + 2]).contains(&byte);
                    i += 3;
                } else {
                    found |= set[i] == byte;
                    i += 1;
                }
            }
            (found != negated).then_some(end + 1)
        }
        other => (other == byte).then_some(p + 1),
    }
}

/// Whether there is anything in it that a pattern would have.
pub fn has_pattern(name: &[u8]) -> bool {
    name.iter().any(|b| matches!(b, b'*' | b'?' | b'['))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        ClusterPath::parse(OsStr::new(text)).unwrap().to_string()
    }

    #[test]
    fn paths_are_taken_apart_by_name() {
        assert_eq!(parse("cairn:/a//b/./c/../d/"), "/a/b/d");
        assert_eq!(parse("/"), "/");
        assert_eq!(parse("/../.."), "/");
        let path = ClusterPath::parse(OsStr::new("/a/b/")).unwrap();
        assert!(path.trailing_slash);
        assert_eq!((path.parent().to_string(), &path.name()[..]), ("/a".into(), &b"b"[..]));
        assert_eq!(path.parent().parent().parent(), ClusterPath::root().with_slash(false));
        assert_eq!(ClusterPath::root().join(b"x").to_string(), "/x");
        assert!(ClusterPath::parse(OsStr::new("a")).is_err());
        assert!(ClusterPath::parse(OsStr::new(&format!("/{}", "x".repeat(256)))).is_err());
    }

    #[test]
    fn patterns_match_as_a_shell_has_them() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*.c", "main.c", true),
            ("*.c", "main.cc", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "", false),
            ("??", "ab", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("", "", true),
            ("", "x", false),
            ("a", "ab", false),
            ("*a", "ba", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
