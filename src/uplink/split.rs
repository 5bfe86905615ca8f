//! One bad batch stops nobody (promise P7): what to do with an upload the far end refuses as bad.
//!
//! ```text
//! 1000 refused ─ 500 taken
//!              └ 500 refused ─ 250 refused ─ … ─ 1 refused      suspect
//!                            │                 1 taken          evidence: it is the item
//!                            └ 250 taken       1 refused again  guilty ─▶ dead letter, with the far end's words
//! ```
//!
//! What always holds:
//! * Nothing is a dead letter that was not refused *alone and twice, while something else was taken* since the upload it
//!   was cut from was refused. A far end that refuses everything therefore convicts nobody: the lane is held and probed
//!   (`Sentence::AllRefused`).
//! * The first half goes first, so that a lane in order stays in order but for the guilty item.
//! * `k` guilty of `n` items cost at most `2·k·⌈log2 n⌉ + 1` requests to find and `k` to confirm: each guilty item
//!   refuses one upload on each of the `⌈log2 n⌉` levels above it, and each refused upload makes two.
//! * After [`GUILTY_MAX`] guilty items of one upload, what is refused of it goes to the dead letters in larger pieces:
//!   data that is bad throughout must not cost a request per item. A person can send those pieces again.

/// Guilty items sought one by one in one upload: 32. With 1,000 items that is at most 673 requests.
pub const GUILTY_MAX: u32 = 32;

/// What is known of a refused upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hearing {
    /// Items in it.
    pub items: u32,
    /// Uploads of its signal the far end has taken, ever.
    pub taken: u64,
    /// It was refused before without being halved; and the same, when the upload it was cut from was refused (or itself,
    /// when it was never cut).
    pub suspect_since: Option<u64>,
    /// Guilty items already found in the upload it was a part of.
    pub guilty: u32,
    /// The link of its lane was up when it was sent; else it was a probe.
    pub link_up: bool,
    /// Other suspects since the last upload was taken.
    pub fellow_suspects: usize,
}

/// What is to be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sentence {
    /// Send its halves.
    Halve,
    /// Keep it and try others: it may be the item, or the far end.
    Suspect,
    /// It is the item: to the dead letters.
    Guilty,
    /// Nothing is taken at all: keep it, and rest.
    AllRefused,
}

impl Hearing {
    /// The sentence.
    #[must_use]
    pub fn sentence(self) -> Sentence {
        let whole = self.items <= 1 || self.guilty >= GUILTY_MAX;
        match self.suspect_since {
            _ if !self.link_up => Sentence::AllRefused,
            _ if !whole => Sentence::Halve,
            Some(then) if self.taken > then => Sentence::Guilty,
            Some(_) => Sentence::AllRefused,
            None if self.fellow_suspects > 0 => Sentence::AllRefused,
            None => Sentence::Suspect,
        }
    }
}

/// The most requests it takes to find and confirm `guilty` items among `items`, as promised above.
#[must_use]
pub fn requests_max(items: u32, guilty: u32) -> u32 {
    let levels = items.max(1).next_power_of_two().trailing_zeros();
    2 * guilty * levels + 1 + guilty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn nothing_is_convicted_without_evidence() {
        let base = Hearing { items: 8, taken: 5, suspect_since: None, guilty: 0, link_up: true, fellow_suspects: 0 };
        for (hearing, expected) in [
            (base,                                                              Sentence::Halve),
            (Hearing { fellow_suspects: 3, ..base },                            Sentence::Halve),
            (Hearing { link_up: false, ..base },                                Sentence::AllRefused), // a probe tells nothing of its items
            (Hearing { items: 1, ..base },                                      Sentence::Suspect),
            (Hearing { items: 1, fellow_suspects: 1, ..base },                  Sentence::AllRefused), // two alone, none taken
            (Hearing { items: 1, suspect_since: Some(5), ..base },              Sentence::AllRefused), // nothing was taken since
            (Hearing { items: 1, suspect_since: Some(4), ..base },              Sentence::Guilty),
            (Hearing { items: 1, suspect_since: Some(4), fellow_suspects: 2, ..base }, Sentence::Guilty),
            (Hearing { items: 1, suspect_since: Some(4), link_up: false, ..base },     Sentence::AllRefused),
            (Hearing { guilty: GUILTY_MAX - 1, ..base },                        Sentence::Halve),
            (Hearing { guilty: GUILTY_MAX, ..base },                            Sentence::Suspect),    // enough: the piece as a whole
            (Hearing { guilty: GUILTY_MAX, suspect_since: Some(4), ..base },    Sentence::Guilty),
        ] {
            assert_eq!(hearing.sentence(), expected, "{hearing:?}");
        }
    }

    #[test]
    fn the_promised_bound_is_the_one_in_the_text() {
        assert_eq!(
            [requests_max(1, 1), requests_max(2, 1), requests_max(1_000, 1), requests_max(1_000, 32)],
            [2, 4, 22, 673]
        );
    }
}
