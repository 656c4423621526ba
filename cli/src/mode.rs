//! Permission modes as chmod(1) writes them.
use crate::failure::{Failure, Result};
use rustix::fs::Mode;
use std::sync::OnceLock;

static UMASK: OnceLock<u32> = OnceLock::new();

/// This process's umask. The first call, at the start while there is one thread, reads it.
pub fn umask() -> u32 {
    *UMASK.get_or_init(|| {
        // it can only be read by setting it
        let mask = rustix::process::umask(Mode::from_raw_mode(0o077));
        rustix::process::umask(mask);
        mask.as_raw_mode()
    })
}

/// `mode` changed as `text` says: an octal number, or clauses such as `u+x,go-w,a=rX`.
///
/// # Errors
/// `Usage` for what is neither.
pub fn change(text: &str, mode: u32, directory: bool, umask: u32) -> Result<u32> {
    let wrong = || {
        Failure::usage(format_args!(
            "{text}: a mode is an octal number such as 0644, or changes such as u+x,go-w"
        ))
    };
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(mode),
            _ => Err(wrong()),
        };
    }
    let mut mode = mode;
    for clause in text.split(',') {
        let operators = clause.find(['+', '-', '=']).ok_or_else(wrong)?;
        let (who, mut rest) = clause.split_at(operators);
        // read, write and execute of those who are meant; with nobody named the umask protects its bits
        let mut whom = 0;
        for c in who.chars() {
            whom |= match c {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return Err(wrong()),
            };
        }
        let allowed = if who.is_empty() { 0o7777 & !umask } else { whom };
        while let Some(operator) = rest.chars().next() {
            rest = &rest[1..];
            let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
            let (what, next) = rest.split_at(end);
            rest = next;
            let mut bits = 0;
            for c in what.chars() {
                bits |= match c {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if directory || mode & 0o111 != 0 => 0o111,
                    'X' => 0,
                    's' => 0o6000,
                    't' => 0o1000,
                    'u' => spread(mode >> 6),
                    'g' => spread(mode >> 3),
                    'o' => spread(mode),
                    _ => return Err(wrong()),
                };
            }
            let bits = bits & (allowed | if who.is_empty() { 0o1000 } else { 0 });
            match operator {
                '+' => mode |= bits,
                '-' => mode &= !bits,
                // set and clear; a directory keeps its set-id bits unless they are named, as GNU chmod has it
                _ => {
                    let kept = if directory { 0o6000 } else { 0 };
                    let cleared = if who.is_empty() { 0o7777 } else { whom };
                    mode = mode & !(cleared & !kept) | bits;
                }
            }
        }
    }
    Ok(mode)
}

/// One class's three bits for all classes.
fn spread(bits: u32) -> u32 {
    (bits & 7) * 0o111
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_has_it() {
        for (text, before, directory, after) in [
            ("0644", 0o777, false, 0o644),
            ("4755", 0, false, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("go-rwx", 0o777, false, 0o700),
            ("a=r", 0o777, false, 0o444),
            ("u=rw,go=r", 0o777, false, 0o644),
            ("+x", 0o644, false, 0o755),
            ("+w", 0o444, false, 0o644), // the umask protects the others
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o644, true, 0o755),
            ("a+X", 0o744, false, 0o755),
            ("g=u", 0o750, false, 0o770),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("+t", 0o777, true, 0o1777),
            ("u=rwx", 0o4644, true, 0o4744),
            ("u-w+x", 0o600, false, 0o500),
        ] {
            assert_eq!(
                change(text, before, directory, 0o022).unwrap(),
                after,
                "{text} {before:o}"
            );
        }
        for text in ["", "rw", "8", "77777", "u+q", "x+r"] {
            assert!(change(text, 0, false, 0o022).is_err(), "{text}");
        }
    }
}
