//! What a platform needs to take every item once: the places it has taken, by the ids of uploads (`docs/upload-id.md`).

use std::collections::BTreeMap;

/// An upload's id, taken apart: `<spool>/<lane>/<index.item>-<index.item>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadId {
    /// Spool and lane: what places are counted in.
    pub lane: String,
    /// Its first place,
    pub start: Place,
    /// and the one after its last.
    pub end: Place,
}

/// Index of a block, and of an item in it.
pub type Place = (u64, u32);

impl UploadId {
    /// `None` for what is no id of an upload, as a gap report's.
    #[must_use]
    pub fn parse(text: &str) -> Option<UploadId> {
        let (lane, places) = text.rsplit_once('/')?;
        let (start, end) = places.split_once('-')?;
        let place = |text: &str| -> Option<Place> {
            let (index, item) = text.split_once('.')?;
            Some((index.parse().ok()?, item.parse().ok()?))
        };
        let id = UploadId { lane: lane.to_owned(), start: place(start)?, end: place(end)? };
        (id.start < id.end).then_some(id)
    }
}

/// What is to be done with an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Take it.
    New,
    /// All of it was taken before: say yes, and do nothing.
    Before,
    /// Some of it was: refuse it with 422, and its halves come.
    InPart,
}

/// The places taken, as ranges that do not touch each other, by lane.
#[derive(Debug, Clone, Default)]
pub struct Taken(BTreeMap<String, BTreeMap<Place, Place>>);

impl Taken {
    /// Whether `id` was taken before.
    #[must_use]
    pub fn look(&self, id: &UploadId) -> Seen {
        let before = self.0.get(&id.lane).and_then(|lane| lane.range(..id.end).next_back());
        match before {
            Some((from, to)) if *from <= id.start && *to >= id.end => Seen::Before,
            Some((_, to)) if *to > id.start => Seen::InPart,
            _ => Seen::New,
        }
    }

    /// It was taken.
    pub fn enter(&mut self, id: &UploadId) {
        let lane = self.0.entry(id.lane.clone()).or_default();
        let (mut start, mut end) = (id.start, id.end);
        while let Some((from, to)) =
            lane.range(..=end).next_back().map(|(from, to)| (*from, *to)).filter(|(_, to)| *to >= start)
        {
            lane.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        lane.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(places: &str) -> UploadId {
        UploadId::parse(&format!("3f2a/1/{places}")).expect("an id")
    }

    #[test]
    fn what_is_no_id_is_none() {
        for text in ["", "3f2a/gaps", "3f2a/1/4.0", "3f2a/1/4.0-4.0", "3f2a/1/5.0-4.9", "3f2a/1/4-5", "3f2a/1/x.0-5.0"]
        {
            assert_eq!(UploadId::parse(text), None, "{text}");
        }
        assert_eq!(id("4.7-5.150"), UploadId { lane: "3f2a/1".to_owned(), start: (4, 7), end: (5, 150) });
    }

    #[test]
    #[rustfmt::skip]
    fn places_are_known_however_they_were_cut() {
        let mut taken = Taken::default();
        for places in ["4.0-4.300", "6.0-7.0", "4.300-4.500", "4.600-5.0"] {
            assert_eq!(taken.look(&id(places)), Seen::New, "{places}");
            taken.enter(&id(places));
        }
        for (places, seen) in [
            ("4.0-4.300",   Seen::Before),
            ("4.0-4.500",   Seen::Before), // both halves
            ("4.100-4.400", Seen::Before),
            ("4.0-4.501",   Seen::InPart),
            ("4.0-9.0",     Seen::InPart), // around all of them
            ("4.500-4.600", Seen::New),
            ("5.0-6.0",     Seen::New),
            ("5.0-6.1",     Seen::InPart),
            ("7.0-8.0",     Seen::New),
            ("0.0-4.0",     Seen::New),
        ] {
            assert_eq!(taken.look(&id(places)), seen, "{places}");
        }
        taken.enter(&id("4.500-4.600"));
        assert_eq!(taken.look(&id("4.0-5.0")), Seen::Before);
        assert_eq!(taken.look(&UploadId { lane: "3f2a/2".to_owned(), ..id("4.0-5.0") }), Seen::New);
    }
}
