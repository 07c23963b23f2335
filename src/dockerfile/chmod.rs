//! The value of `--chmod`.
//!
//! # Specification
//! Dockerfile reference, COPY `--chmod`: octal, or symbolic as in chmod(1). A
//! clause without `u`, `g`, `o` or `a` means all three; no umask is applied.

/// Why a mode is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--chmod has no mode {0:?}")]
pub struct ChmodError(pub String);

/// A change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// These bits and no others.
    Set(u32),
    /// Clauses applied one after the other.
    Symbolic(Vec<Clause>),
}

/// One operator of a symbolic mode with what stands around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// Whose bits: `0o700`, `0o070`, `0o007` or a union of them.
    who: u32,
    op: Op,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Assign,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Bits {
        /// `r`, `w`, `x` as three bits.
        rwx: u32,
        /// `X`: execute where it is a directory or somebody may already.
        exec_if: bool,
        /// `s`
        set_id: bool,
        /// `t`
        sticky: bool,
    },
    /// The bits that user, group or others have, by the shift of theirs.
    Copy(u32),
}

impl Chmod {
    /// What the flag takes, for people.
    pub const FORMS: &str =
        "a mode is an octal number up to 7777, or symbolic as in u=rwX,go=rX and +x";

    /// Parses the value of the flag.
    pub fn parse(text: &str) -> Result<Self, ChmodError> {
        let bad = || ChmodError(text.chars().take(100).collect());
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| bad())?;
            return if mode <= 0o7777 {
                Ok(Self::Set(mode))
            } else {
                Err(bad())
            };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let ops = part.trim_start_matches(['u', 'g', 'o', 'a']);
            let who = part[..part.len() - ops.len()].chars().fold(0, |who, c| {
                who | class(c).map_or(0o777, |shift| 0o7 << shift)
            });
            let who = if who == 0 { 0o777 } else { who };
            let mut rest = ops;
            if rest.is_empty() {
                return Err(bad());
            }
            while let Some(sign) = rest.chars().next() {
                let op = match sign {
                    '+' => Op::Add,
                    '-' => Op::Remove,
                    '=' => Op::Assign,
                    _ => return Err(bad()),
                };
                rest = &rest[1..];
                let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
                let what = What::parse(&rest[..end]).ok_or_else(bad)?;
                clauses.push(Clause { who, op, what });
                rest = &rest[end..];
            }
        }
        Ok(Self::Symbolic(clauses))
    }

    /// The bits of an entry that has `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Set(mode) => *mode,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |m, c| c.apply(m, is_dir)),
        }
    }
}

/// How far the bits of user, group or others are shifted; `None` for all.
fn class(c: char) -> Option<u32> {
    match c {
        'u' => Some(6),
        'g' => Some(3),
        'o' => Some(0),
        _ => None,
    }
}

impl What {
    fn parse(text: &str) -> Option<Self> {
        if let "u" | "g" | "o" = text {
            return text.chars().next().and_then(class).map(Self::Copy);
        }
        let (mut rwx, mut exec_if, mut set_id, mut sticky) = (0, false, false, false);
        for c in text.chars() {
            match c {
                'r' => rwx |= 4,
                'w' => rwx |= 2,
                'x' => rwx |= 1,
                'X' => exec_if = true,
                's' => set_id = true,
                't' => sticky = true,
                _ => return None,
            }
        }
        Some(Self::Bits {
            rwx,
            exec_if,
            set_id,
            sticky,
        })
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let spread = |rwx: u32| (rwx * 0o111) & self.who;
        let bits = match &self.what {
            What::Copy(shift) => spread((mode >> shift) & 0o7),
            What::Bits {
                rwx,
                exec_if,
                set_id,
                sticky,
            } => {
                let exec = *exec_if && (is_dir || mode & 0o111 != 0);
                let mut bits = spread(rwx | u32::from(exec));
                if *set_id {
                    bits |= if self.who & 0o700 != 0 { 0o4000 } else { 0 };
                    bits |= if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                }
                if *sticky && self.who & 0o007 != 0 {
                    bits |= 0o1000;
                }
                bits
            }
        };
        match self.op {
            Op::Add => mode | bits,
            Op::Remove => mode & !bits,
            Op::Assign => {
                let mut owned = self.who;
                // A directory keeps its setuid and setgid bits, as with chmod(1).
                if !is_dir {
                    owned |= if self.who & 0o700 != 0 { 0o4000 } else { 0 };
                    owned |= if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                }
                owned |= if self.who & 0o007 != 0 { 0o1000 } else { 0 };
                (mode & !owned) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, from, is_dir, expected) in [
            ("755", 0o600, false, 0o755),
            ("0", 0o777, true, 0),
            ("7777", 0, false, 0o7777),
            ("+x", 0o644, false, 0o755),
            ("a+x", 0o600, false, 0o711),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("g=u", 0o750, false, 0o770),
            ("go-rwx", 0o4755, false, 0o4700),
            ("u+s,+t", 0o755, false, 0o5755),
            ("o=", 0o777, false, 0o770),
            ("u=rw,u+x-w", 0o000, false, 0o500),
            ("ug+rw", 0o001, false, 0o661),
        ] {
            let chmod = Chmod::parse(text).unwrap();
            assert_eq!(chmod.apply(from, is_dir), expected, "{text} {from:o}");
        }
        for bad in [
            "",
            "8",
            "99999999999",
            "10000",
            "abc",
            "u",
            "u=q",
            "u=rw,",
            "-",
            "+r x",
            "é+x",
        ] {
            // A lone sign changes nothing, as with chmod(1).
            assert_eq!(Chmod::parse(bad).is_err(), bad != "-", "{bad:?}");
        }
    }
}
