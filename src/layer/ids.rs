//! Which ids of an image are which ids of the host, where they are not the
//! same.
//!
//! # Specification
//! `user_namespaces(7)`, "User and group ID mappings"; runtime-spec
//! `config-linux.md`, `uidMappings`.

use std::fmt;

/// A run of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id in the image.
    pub inside: u32,
    /// The id that it is on the host.
    pub outside: u32,
    /// How many there are, at least one; all are below 2³².
    pub count: u32,
}

impl IdRange {
    /// Reads `INSIDE:OUTSIDE[:COUNT]`; one id without a count.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let malformed = || format!("{text:?} is no CONTAINER:HOST[:COUNT]");
        let mut parts = text.split(':');
        let mut number = |default: Option<u32>| match parts.next() {
            Some(part) => part.parse().map_err(|_| malformed()),
            None => default.ok_or_else(malformed),
        };
        let (inside, outside, count) = (number(None)?, number(None)?, number(Some(1))?);
        if parts.next().is_some() {
            return Err(malformed());
        }
        // The last number stands for "no id".
        let fits = |first: u32| u64::from(first) + u64::from(count) <= u64::from(u32::MAX);
        if count == 0 || !fits(inside) || !fits(outside) {
            return Err(format!("{text:?} has no ids, or ids that don't exist"));
        }
        Ok(Self {
            inside,
            outside,
            count,
        })
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.inside, self.outside, self.count)
    }
}

/// Users and groups of an image and of the host. Where there are no ranges,
/// ids are what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Users.
    pub users: Vec<IdRange>,
    /// Groups.
    pub groups: Vec<IdRange>,
}

impl IdMaps {
    /// Whether all ids are what they are.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// The host's ids of an owner in the image; `None` where it has none.
    pub fn to_host(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        let map = |ranges: &[IdRange], id| find(ranges, id, |r| (r.inside, r.outside));
        Some((map(&self.users, uid)?, map(&self.groups, gid)?))
    }

    /// The image's ids of an owner on the host; `None` where it has none.
    pub fn to_image(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        let map = |ranges: &[IdRange], id| find(ranges, id, |r| (r.outside, r.inside));
        Some((map(&self.users, uid)?, map(&self.groups, gid)?))
    }
}

fn find(ranges: &[IdRange], id: u32, ends: impl Fn(&IdRange) -> (u32, u32)) -> Option<u32> {
    if ranges.is_empty() {
        return Some(id);
    }
    ranges.iter().find_map(|range| {
        let (from, to) = ends(range);
        let offset = id.checked_sub(from).filter(|o| *o < range.count)?;
        Some(to + offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_map_both_ways() {
        let maps = IdMaps {
            users: ["0:1000", "1:100000:65536"]
                .map(|t| IdRange::parse(t).unwrap())
                .to_vec(),
            groups: Vec::new(),
        };
        for (inside, outside) in [(0, 1000), (1, 100_000), (65536, 165_535)] {
            assert_eq!(maps.to_host((inside, 7)), Some((outside, 7)));
            assert_eq!(maps.to_image((outside, 7)), Some((inside, 7)));
        }
        assert_eq!(maps.to_host((65537, 0)), None);
        assert_eq!(maps.to_image((0, 0)), None);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in [
            "",
            "1",
            "a:b",
            "0:0:0",
            "0:1:2:3",
            "-1:0:1",
            "4294967295:0",
            "0:4294967290:10",
        ] {
            assert!(IdRange::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(IdRange::parse("0:5").unwrap().to_string(), "0:5:1");
    }
}
