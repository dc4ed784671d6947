//! A run by its lane and its number: `mail/17`, what `queue add` prints.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::RunId;
use crate::name::Name;

/// A run of a lane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneRun {
    /// The lane: a job's name.
    pub lane: Name,
    /// The run's number.
    pub run: RunId,
}

impl fmt::Display for LaneRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.lane, self.run)
    }
}

/// No name has a slash, so there is one way to read it.
impl FromStr for LaneRun {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let wrong = || "give a run as `queue add` prints it, LANE/NUMBER, such as mail/17".to_owned();
        let (lane, run) = given.split_once('/').ok_or_else(wrong)?;
        let lane = lane.parse::<Name>().map_err(|e| e.to_string())?;
        let number = run.bytes().all(|byte| byte.is_ascii_digit()).then(|| run.parse().ok()).flatten();
        // `017` would be a second name for it.
        let number = number.filter(|number: &u64| number.to_string() == run).ok_or_else(wrong)?;
        Ok(Self { lane, run: RunId(number) })
    }
}

impl Serialize for LaneRun {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LaneRun {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_as_it_is_printed() {
        let run: LaneRun = "mail/17".parse().unwrap();
        assert_eq!((run.lane.as_str(), run.run, run.to_string()), ("mail", RunId(17), "mail/17".to_owned()));
        for wrong in ["", "mail", "17", "/17", "mail/", "mail/x", "mail/017", "mail/+7", "a/b/1", "mail/-1", "m il/1"] {
            assert!(wrong.parse::<LaneRun>().is_err(), "{wrong}");
        }
    }
}
