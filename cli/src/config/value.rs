//! The kinds of values that settings have, each with one text form that is the same in file, environment and flags.
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A value as a layer gives it: lists only from TOML arrays.
#[derive(Debug, Clone, Copy)]
pub enum Raw<'a> {
    Text(&'a str),
    List(&'a [String]),
}

/// A type that a setting may have.
pub trait Setting: Sized {
    /// What it expects, for messages: "a duration such as 30s or 500ms".
    const EXPECTS: &'static str;

    /// `None`: not that.
    fn parse(raw: Raw<'_>) -> Option<Self>;

    /// In a form that `parse` takes and that TOML takes unquoted if `BARE`.
    fn show(&self) -> String;

    /// Stands in TOML without quotes (numbers, booleans, arrays).
    const BARE: bool = false;
}

macro_rules! from_str_setting {
    ($type:ty, $expects:literal, $bare:literal) => {
        impl Setting for $type {
            const EXPECTS: &'static str = $expects;
            const BARE: bool = $bare;
            fn parse(raw: Raw<'_>) -> Option<Self> {
                match raw {
                    Raw::Text(text) => text.trim().parse().ok(),
                    Raw::List(_) => None,
                }
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    };
}

from_str_setting!(bool, "true or false", true);
from_str_setting!(u8, "a whole number from 0 to 255", true);
from_str_setting!(u32, "a whole number", true);
from_str_setting!(u64, "a whole number", true);
from_str_setting!(String, "a text", false);
from_str_setting!(
    SocketAddr,
    "an IP address and a port such as 127.0.0.1:7600 or [::]:7600 (port 0: any free one)",
    false
);
from_str_setting!(
    Address,
    "host:port such as 192.168.1.5:7600 or master.example:7600",
    false
);
from_str_setting!(Size, "a size such as 64MiB, 10GB or 4096 (bytes)", false);
from_str_setting!(
    Span,
    "a duration with its unit such as 500ms, 30s, 5m, 24h or 7d",
    false
);
from_str_setting!(Share, "a share of a disk such as 1% or 0.5%", false);
from_str_setting!(LogFormat, "human or json", false);

impl Setting for PathBuf {
    const EXPECTS: &'static str = "a path";
    fn parse(raw: Raw<'_>) -> Option<Self> {
        match raw {
            Raw::Text(text) if !text.is_empty() => Some(text.into()),
            _ => None,
        }
    }
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for Vec<PathBuf> {
    const EXPECTS: &'static str = "one or more paths (in TOML an array, elsewhere separated by commas)";
    const BARE: bool = true;
    fn parse(raw: Raw<'_>) -> Option<Self> {
        match raw {
            Raw::Text("") => Some(vec![]),
            Raw::Text(text) => text.split(',').map(|p| PathBuf::parse(Raw::Text(p.trim()))).collect(),
            Raw::List(items) => items.iter().map(|p| PathBuf::parse(Raw::Text(p))).collect(),
        }
    }
    fn show(&self) -> String {
        let items: Vec<_> = self.iter().map(|p| format!("{:?}", p.display().to_string())).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Empty text: not set.
impl<T: Setting> Setting for Option<T> {
    const EXPECTS: &'static str = T::EXPECTS;
    fn parse(raw: Raw<'_>) -> Option<Self> {
        match raw {
            Raw::Text("") => Some(None),
            raw => T::parse(raw).map(Some),
        }
    }
    fn show(&self) -> String {
        self.as_ref().map(T::show).unwrap_or_default()
    }
}

/// `host:port`; the host may be a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for Address {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let (host, port) = s.rsplit_once(':').ok_or(())?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let host_fits = !host.is_empty() && !host.contains(['/', ' ', '@']) && (bracketed || !host.contains(':'));
        match port.parse::<u16>() {
            Ok(_) if host_fits => Ok(Self(s.to_owned())),
            _ => Err(()),
        }
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 14] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("b", 1),
    ("", 1),
];

impl FromStr for Size {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let s = s.trim().to_ascii_lowercase();
        let digits = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let (number, unit) = s.split_at(digits);
        let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or(())?;
        let number: u64 = number.parse().map_err(|_| ())?;
        number.checked_mul(*factor).map(Self).ok_or(())
    }
}
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [
            ("TiB", 1u64 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A duration in text with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let mut rest = s.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(())?;
            let (number, tail) = rest.split_at(digits);
            let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            let number: u64 = number.parse().map_err(|_| ())?;
            let unit_ms = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" | "min" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(()),
            };
            total += Duration::from_millis(number.checked_mul(unit_ms).ok_or(())?);
            rest = tail;
        }
        if s.trim().is_empty() { Err(()) } else { Ok(Self(total)) }
    }
}
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms == 0 {
            return f.write_str("0s");
        }
        for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if ms.is_multiple_of(unit_ms) {
                return write!(f, "{}{unit}", ms / unit_ms);
            }
        }
        write!(f, "{ms}ms")
    }
}

/// A share of a whole, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub u32);

impl FromStr for Share {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let percent = s.trim().strip_suffix('%').ok_or(())?;
        let (whole, tenths) = percent.split_once('.').unwrap_or((percent, "0"));
        let (whole, tenths): (u32, u32) = (whole.parse().map_err(|_| ())?, tenths.parse().map_err(|_| ())?);
        let permille = whole.checked_mul(10).and_then(|w| w.checked_add(tenths)).ok_or(())?;
        if tenths < 10 && permille <= 1000 {
            Ok(Self(permille))
        } else {
            Err(())
        }
    }
}
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}
impl FromStr for LogFormat {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        match s {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}
impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_their_text() {
        for text in ["64MiB", "1TiB", "4097", "0"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for text in ["500ms", "90s", "24h".replace("24h", "1d").as_str(), "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("1m30s".parse::<Span>().unwrap().0, Duration::from_secs(90));
        assert_eq!("10GB".parse::<Size>().unwrap().0, 10_000_000_000);
        assert_eq!("0.5%".parse::<Share>().unwrap(), Share(5));
        assert_eq!(Share(10).to_string(), "1%");
    }

    #[test]
    fn what_is_ambiguous_or_absurd_is_refused() {
        for text in ["", "30", "s", "1x", "-1s", "99999999999999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for text in ["", "-1", "1.5GB", "99999999999TiB", "MiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["host", ":1", "host:", "host:99999", "http://host:1", "::1:7600"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        assert!("[::1]:7600".parse::<Address>().is_ok());
        assert!("100.1%".parse::<Share>().is_err());
        for text in ["1", "-1%", "0.55%", "%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
