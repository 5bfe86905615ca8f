//! The books of a spool: lanes, exporters, cursors. Pure: it is told what happened and says what follows.
//!
//! The ledger lives in memory and is written as control records with the commits; after a restart it is read back
//! from the newest segment (`docs/spool-format.md` §1). Nothing here grows with the backlog (promise P5).

mod heal;

pub(crate) use self::heal::{last_epoch, next_index};
use super::block::Header;
use super::chronicle::Chronicle;
use super::codec::{Damage, Eye, Pen};
use super::cursor::{Cursor, Fate, UNREAD_MAX, Unread, Window};
use super::gaps::{Dates, Gaps};
use super::{Book, Cut, ExporterNo, Lane, LeaseError, NewBlock, Owner, Pick, Waiting};
use crate::base::{BootId, Reading, Stamp};
use crate::otlp::Signal;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

/// How many of a lane's newest blocks have their accept time in memory, for the `batch` timeout. Older ones are late
/// anyway. 1,024 blocks of 24 bytes.
const RECENT_MAX: usize = 1_024;

/// Lane numbers end here; control keys begin.
const LANE_END: u32 = 0xFFFF_0000;
const CONTROL: [u8; 4] = [0xFF; 4];
const LANE_RECORD: u8 = 1;
const EXPORTER_RECORD: u8 = 2;
const CURSOR_RECORD: u8 = 3;
const GAPS_RECORD: u8 = 4;
const BOOT_RECORD: u8 = 5;

/// A key and its value, as they go to the disk.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

/// Lanes by their names.
type ByName<'a> = HashMap<&'a str, u32>;

/// The key of a block.
pub(crate) fn block_key(lane: Lane, index: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&lane.0.to_be_bytes());
    key[4..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Which block a key names; `None` for control keys and foreign ones.
pub(crate) fn parse_block_key(key: &[u8]) -> Option<(Lane, u64)> {
    let (lane, index) = key.split_first_chunk::<4>()?;
    let lane = u32::from_be_bytes(*lane);
    let index = u64::from_be_bytes(index.try_into().ok()?);
    (lane < LANE_END).then_some((Lane(lane), index))
}

/// Whether a key belongs to a control record.
pub(crate) fn is_control_key(key: &[u8]) -> bool {
    key.starts_with(&CONTROL)
}

fn control_key(kind: u8, numbers: &[u32]) -> Vec<u8> {
    let mut key = CONTROL.to_vec();
    key.push(kind);
    for n in numbers {
        key.extend_from_slice(&n.to_be_bytes());
    }
    key
}

#[derive(Debug, Clone)]
struct LaneState {
    name: String,
    signal: Signal,
    next_index: u64,
    /// Items accepted since the lane began, burnt ones included.
    tip: u64,
    /// Totals whose commit was answered with an error, where a cursor has still to pass.
    burnt: Vec<Range<u64>>,
    /// Totals that blocks may have which a disk did not give at a start: what is found there was accepted, and all before it; what
    /// is not counts for nobody. In order, none overlaps what is burnt.
    doubtful: Vec<Range<u64>>,
    recent: VecDeque<Recent>,
    /// Dates of its newest block, as far as this life knows it.
    newest: Option<Dates>,
    dirty: bool,
}

#[derive(Debug, Clone, Copy)]
struct Recent {
    index: u64,
    before: u64,
    accepted: Stamp,
    boot: BootId,
}

#[derive(Debug, Clone)]
struct ExporterState {
    name: String,
    /// Grows with each owner; not stored, since no owner outlives the process.
    generation: u64,
    dirty: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    lanes: BTreeMap<u32, LaneState>,
    exporters: BTreeMap<u32, ExporterState>,
    /// By exporter, then lane.
    cursors: BTreeMap<(u32, u32), Cursor>,
    /// When their losses came from.
    gaps: BTreeMap<(u32, u32), Gaps>,
    /// Dates of the block before what is unread, by the total that begins with, as far as it was handed out in this life.
    reached: BTreeMap<(u32, u32), Vec<(u64, Dates)>>,
    /// Indices of this life start here.
    epoch_base: u64,
    /// Lane numbers below are taken, by whom is not known any more.
    lane_floor: u32,
    /// Which boots there were, so that ages go over them.
    chronicle: Chronicle,
}

/// What to read next for an exporter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// A window that was out before; it is out again now.
    Again(Window),
    /// New data, from here on.
    From(Front),
    /// Nothing waits.
    Nothing,
}

/// Where unread data begins that is to be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Front {
    /// The first block has this index or a higher one,
    pub(crate) index: u64,
    /// and so many items of the lane lie before it.
    pub(crate) total: u64,
    /// A hole behind this place is left to whoever reads the backlog before it; else it is lost.
    pub(crate) floats: bool,
    /// The youngest of it is wanted first.
    pub(crate) newest: bool,
}

/// Numbered blocks whose fate is not known yet: [`Ledger::committed`] or [`Ledger::failed`].
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) blocks: Vec<(Header, Vec<u8>)>,
}

impl Ledger {
    /// The start whose indices these are.
    pub(crate) fn epoch(&self) -> u32 {
        u32::try_from(self.epoch_base >> 32).expect("made of 32 bits")
    }

    /// Empty books; indices begin at `epoch << 32`.
    pub(crate) fn new(epoch: u32) -> Ledger {
        Ledger {
            lanes: BTreeMap::new(),
            exporters: BTreeMap::new(),
            cursors: BTreeMap::new(),
            gaps: BTreeMap::new(),
            reached: BTreeMap::new(),
            epoch_base: u64::from(epoch) << 32,
            lane_floor: 0,
            chronicle: Chronicle::default(),
        }
    }

    /// The lane of this name, made when there is none.
    pub(crate) fn lane(&mut self, name: &str, signal: Signal) -> Lane {
        if let Some((no, _)) = self.lanes.iter().find(|(_, l)| l.name == name) {
            return Lane(*no);
        }
        let no = self.lanes.last_key_value().map_or(0, |(no, _)| no + 1).max(self.lane_floor);
        assert!(no < LANE_END, "four billion pipelines");
        let fresh = LaneState {
            name: name.to_owned(),
            signal,
            next_index: self.epoch_base,
            tip: 0,
            burnt: Vec::new(),
            doubtful: Vec::new(),
            recent: VecDeque::new(),
            newest: None,
            dirty: true,
        };
        self.lanes.insert(no, fresh);
        Lane(no)
    }

    /// Names of the lanes beside a pipeline's own that begin so, and whether nothing of theirs waits or is held.
    pub(crate) fn branches(&self, prefix: &str) -> Vec<(String, bool)> {
        let names = self.lanes.values().filter(|lane| lane.name.starts_with(prefix)).map(|lane| lane.name.clone());
        names.map(|name| (name.clone(), self.is_spent(&name))).collect()
    }

    /// Lanes of this name and those beside it, for every exporter.
    fn family<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (u32, &'a LaneState)> {
        let main = move |lane: &&LaneState| {
            lane.name == name || self.exporters.values().any(|e| main_lane_name(&lane.name, &e.name) == name)
        };
        self.lanes.iter().map(|(no, lane)| (*no, lane)).filter(move |(_, lane)| main(lane))
    }

    /// Whether nothing of the lane waits or is held for anybody. What nobody ever joined waits for whoever will.
    fn is_spent(&self, name: &str) -> bool {
        self.family(name).all(|(no, lane)| {
            let mut cursors = self.cursors.iter().filter(|((_, l), _)| *l == no).map(|(_, c)| c).peekable();
            let is_done = |c: &Cursor| lane.waiting(c) == 0 && !lane.may_hold_more(c);
            (cursors.peek().is_some() || lane.tip == 0) && cursors.all(is_done)
        })
    }

    pub(crate) fn has_lane(&self, name: &str) -> bool {
        self.lanes.values().any(|lane| lane.name == name)
    }

    /// A spent lane whose name begins so, which has lost nothing and which `may_go`.
    pub(crate) fn spare(&self, prefix: &str, may_go: impl Fn(&str) -> bool) -> Option<String> {
        let lost = |name: &str| {
            let mut family = self.family(name);
            family.any(|(no, _)| {
                let mut cursors = self.cursors.iter().filter(|((_, l), _)| *l == no);
                cursors.any(|((e, l), c)| c.counts.lost.iter().any(|n| *n > 0) || self.missed_of(*e, *l) > 0)
            })
        };
        let mut names = self.lanes.values().map(|lane| &lane.name).filter(|name| name.starts_with(prefix));
        names.find(|name| may_go(name) && self.is_spent(name) && !lost(name)).cloned()
    }

    /// A spent lane, with those beside it, becomes another's, who begins at its tip: its number and indices go on,
    /// its counts begin anew.
    pub(crate) fn hand_on(&mut self, from: &str, to: &str) {
        debug_assert!(self.is_spent(from), "{from} is somebody's");
        let family: Vec<u32> = self.family(from).map(|(no, _)| no).collect();
        for no in family {
            let Some(lane) = self.lanes.get_mut(&no) else { continue };
            let beside = lane.name.len() - from.len();
            lane.name.replace_range(beside.., to);
            lane.recent.clear();
            lane.dirty = true;
            for (_, cursor) in self.cursors.iter_mut().filter(|((_, l), _)| *l == no) {
                let was_away = cursor.is_away();
                *cursor = Cursor::at_tip(lane.next_index, lane.tip);
                if was_away {
                    cursor.leave(lane.next_index, lane.tip);
                }
            }
        }
    }

    pub(crate) fn lane_name(&self, lane: Lane) -> &str {
        self.lanes.get(&lane.0).map_or("", |l| &l.name)
    }

    pub(crate) fn lane_signal(&self, lane: Lane) -> Option<Signal> {
        self.lanes.get(&lane.0).map(|l| l.signal)
    }

    /// A new owner for the exporter; the former one's leases come back.
    pub(crate) fn own(&mut self, exporter: &str, lanes: &[Lane]) -> Owner {
        let no = self.admit(exporter, lanes);
        for ((exporter, _), cursor) in &mut self.cursors {
            if *exporter == no {
                cursor.give_back_all();
            }
        }
        let state = self.exporters.get_mut(&no).expect("admitted above");
        state.generation += 1;
        Owner { exporter: ExporterNo(no), generation: state.generation }
    }

    /// An exporter reads these lanes from now on, and goes on with what it has out.
    pub(crate) fn admit(&mut self, exporter: &str, lanes: &[Lane]) -> u32 {
        let no = match self.exporters.iter().find(|(_, e)| e.name == exporter) {
            Some((no, _)) => *no,
            None => {
                let no = self.exporters.last_key_value().map_or(0, |(no, _)| no + 1);
                self.exporters.insert(no, ExporterState { name: exporter.to_owned(), generation: 0, dirty: true });
                no
            }
        };
        for lane in lanes {
            self.join(ExporterNo(no), *lane);
        }
        no
    }

    fn join(&mut self, exporter: ExporterNo, lane: Lane) {
        if let Some(state) = self.lanes.get(&lane.0) {
            let tip = || Cursor::at_tip(state.next_index, state.tip);
            let cursor = self.cursors.entry((exporter.0, lane.0)).or_insert_with(tip);
            cursor.come_back(state.next_index, state.tip);
        }
    }

    /// Who reads a lane and does not any more (`reads` gets the exporter's and the lane's name) gets nothing of what comes
    /// in from now on; what waits for it stays. Side lanes are nobody else's and end by themselves.
    pub(crate) fn leave_all(&mut self, reads: impl Fn(&str, &str) -> bool) {
        for ((exporter, lane), cursor) in &mut self.cursors {
            let (Some(owner), Some(state)) = (self.exporters.get(exporter), self.lanes.get(lane)) else { continue };
            let beside = main_lane_name(&state.name, &owner.name) != state.name;
            if beside || cursor.is_away() || reads(&owner.name, &state.name) {
                continue;
            }
            if !cursor.leave(state.next_index, state.tip) {
                tracing::warn!(
                    exporter = owner.name,
                    pipeline = state.name,
                    "exporter left too often to leave again; data goes on waiting for it"
                );
            }
        }
    }

    /// A lane beside `lane` for what this exporter sets aside: `park`, `dead` or `quarantine`. Of a park lane it is
    /// that lane itself for `park`.
    pub(crate) fn side_lane(&mut self, kind: Side, exporter: ExporterNo, lane: Lane) -> Lane {
        let (Some(state), Some(owner)) = (self.lanes.get(&lane.0), self.exporters.get(&exporter.0)) else {
            return lane;
        };
        let (main, signal) = (main_lane_name(&state.name, &owner.name), state.signal);
        let name = format!("{}/{}/{main}", kind.name(), owner.name);
        let side = self.lane(&name, signal);
        self.join(exporter, side);
        side
    }

    pub(crate) fn exporter_numbers(&self) -> Vec<ExporterNo> {
        self.exporters.keys().map(|no| ExporterNo(*no)).collect()
    }

    /// Gives back every window of the exporter that is out but not in `known` (lane, end of its indices).
    pub(crate) fn give_back_unknown(&mut self, exporter: ExporterNo, known: &[(Lane, u64)]) {
        for ((_, lane), cursor) in self.cursors.iter_mut().filter(|((e, _), _)| *e == exporter.0) {
            let lost: Vec<_> = cursor
                .windows
                .iter()
                .filter(|w| w.out && !known.contains(&(Lane(*lane), w.index.end)))
                .map(|w| w.index.clone())
                .collect();
            for index in lost {
                cursor.give_back(&index);
            }
        }
    }

    pub(crate) fn is_current(&self, owner: Owner) -> bool {
        self.exporters.get(&owner.exporter.0).is_some_and(|e| e.generation == owner.generation)
    }

    /// Numbers blocks for a commit. Exactly one of [`Ledger::committed`] and [`Ledger::failed`] must follow before
    /// the next call. Blocks of unknown lanes are our own mistake.
    pub(crate) fn number(&self, blocks: Vec<NewBlock>, boot: BootId) -> Numbered {
        let mut next: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        let number = |block: NewBlock| {
            let (index, tip) = next.entry(block.lane.0).or_insert_with(|| {
                let lane = self.lanes.get(&block.lane.0).expect("a block's lane was made by Ledger::lane");
                (lane.next_index, lane.tip)
            });
            *tip += u64::from(block.items);
            let unset = self.chronicle.is_unset(block.accepted, block.boot.unwrap_or(boot));
            let numbered = block.number(*index, *tip, boot, unset);
            *index += 1;
            numbered
        };
        Numbered { blocks: blocks.into_iter().map(number).collect() }
    }

    /// The blocks are on stable storage: from now on they wait.
    pub(crate) fn committed(&mut self, headers: &[Header]) {
        for h in headers {
            let Some(lane) = self.lanes.get_mut(&h.lane.0) else { continue };
            lane.next_index = h.index + 1;
            lane.tip = lane.tip.max(h.accepted_total); // an eviction may have raised it meanwhile
            lane.newest = Dates::of(h).or(lane.newest);
            lane.dirty = true;
            if lane.recent.len() == RECENT_MAX {
                lane.recent.pop_front();
            }
            lane.recent.push_back(Recent {
                index: h.index,
                before: h.accepted_before(),
                accepted: h.accepted,
                boot: h.boot,
            });
        }
    }

    /// The commit was answered with an error: its indices and totals are burnt, so that the same blocks, should they
    /// be found on the disk one day, are known for what they are.
    pub(crate) fn failed(&mut self, headers: &[Header]) {
        for h in headers {
            let Some(lane) = self.lanes.get_mut(&h.lane.0) else { continue };
            lane.next_index = h.index + 1;
            lane.tip = lane.tip.max(h.accepted_total);
            lane.dirty = true;
            push_range(&mut lane.burnt, h.accepted_before()..h.accepted_total);
        }
    }

    /// The records that changed since they were last taken, or all of them. They count as written from now on: an
    /// append that fails costs its segment, and the first append of the next one takes all.
    pub(crate) fn take_records(&mut self, all: bool) -> Vec<Record> {
        let mut records = Vec::new();
        for (no, lane) in self.lanes.iter_mut().filter(|(_, l)| all || l.dirty) {
            lane.dirty = false;
            records.push((control_key(LANE_RECORD, &[*no]), lane.write()));
        }
        for (no, exporter) in self.exporters.iter_mut().filter(|(_, e)| all || e.dirty) {
            exporter.dirty = false;
            let mut pen = Pen::default();
            pen.u8(1);
            pen.text(&exporter.name);
            records.push((control_key(EXPORTER_RECORD, &[*no]), pen.seal()));
        }
        for ((exporter, lane), cursor) in self.cursors.iter_mut().filter(|(_, c)| all || c.dirty) {
            cursor.dirty = false;
            records.push((control_key(CURSOR_RECORD, &[*exporter, *lane]), cursor.write()));
        }
        records.extend(self.gaps_records(all));
        let boots = self.chronicle.take_records(all).into_iter();
        records.extend(boots.map(|(epoch, record)| (control_key(BOOT_RECORD, &[epoch]), record)));
        records
    }

    /// Whether anything waits to be written.
    pub(crate) fn is_dirty(&self) -> bool {
        self.lanes.values().any(|l| l.dirty)
            || self.exporters.values().any(|e| e.dirty)
            || self.cursors.values().any(|c| c.dirty)
            || self.gaps.values().any(|g| g.dirty)
            || self.chronicle.is_dirty()
    }

    /// This is what the clocks say now.
    pub(crate) fn observe(&mut self, now: &Reading) {
        let epoch = u32::try_from(self.epoch_base >> 32).expect("made of 32 bits");
        self.chronicle.observe(now, epoch);
    }

    /// How long ago this came in, at least.
    pub(crate) fn age(&self, came: Came, now: &Reading) -> Duration {
        self.chronicle.age(came.accepted, came.boot, came.index, now)
    }

    /// Lanes of which somebody still needs something: from where on, to where nothing can be found that the books know.
    pub(crate) fn open_lanes(&self) -> Vec<OpenLane> {
        let mut open = BTreeMap::<u32, OpenLane>::new();
        for ((_, lane), cursor) in &self.cursors {
            let Some(state) = self.lanes.get(lane).filter(|state| state.waiting(cursor) > 0) else { continue };
            let entry = open.entry(*lane).or_insert(OpenLane {
                lane: Lane(*lane),
                from: (cursor.below, cursor.below_total),
                end: state.next_index,
            });
            entry.from = entry.from.min((cursor.below, cursor.below_total));
        }
        open.into_values().collect()
    }

    /// Which boots there were.
    pub(crate) fn chronicle(&self) -> &Chronicle {
        &self.chronicle
    }

    /// Reads one control record back, at start. Later records of the same key replace earlier ones.
    ///
    /// # Errors
    /// When the record is not what its checksum says; the caller counts it and goes on.
    pub(crate) fn restore(&mut self, key: &[u8], record: &[u8]) -> Result<(), Damage> {
        let mut key = Eye::open(key);
        key.take(CONTROL.len())?;
        let kind = key.u8()?;
        let mut number = || key.u32().map(u32::swap_bytes);
        match kind {
            LANE_RECORD => {
                let lane = LaneState::read(record, self.epoch_base)?;
                self.lanes.insert(number()?, lane);
            }
            EXPORTER_RECORD => {
                let mut eye = Eye::unseal(record)?;
                match eye.u8()? {
                    1 => {}
                    other => return Err(Damage::Unknown { what: "exporter version", found: other.into() }),
                }
                self.exporters.insert(number()?, ExporterState { name: eye.text()?, generation: 0, dirty: false });
            }
            CURSOR_RECORD => {
                let at = (number()?, number()?);
                self.cursors.insert(at, Cursor::read(record)?);
            }
            GAPS_RECORD => {
                let at = (number()?, number()?);
                self.gaps.insert(at, Gaps::read(record)?);
            }
            BOOT_RECORD => self.chronicle.restore(number()?, record)?,
            other => return Err(Damage::Unknown { what: "control record", found: other.into() }),
        }
        Ok(())
    }

    /// A block that the newest segment holds, found at start: the tip is behind it.
    pub(crate) fn restore_tip(&mut self, h: &Header) {
        self.lane_floor = self.lane_floor.max(h.lane.0 + 1);
        let Some(lane) = self.lanes.get_mut(&h.lane.0) else { return };
        lane.newest = Dates::of(h).into_iter().chain(lane.newest).max_by_key(|dates| dates.to);
        if h.accepted_total > lane.tip {
            lane.tip = h.accepted_total;
            lane.dirty = true;
        }
    }

    /// What to read next. A returned window is out from now on; for new data [`Ledger::take_new`] follows. `enough`: so many items
    /// are one window, for which nothing is made a backlog. `now`: for what is stale.
    pub(crate) fn plan(
        &mut self,
        owner: Owner,
        lane: Lane,
        pick: Pick,
        enough: u64,
        now: Stamp,
    ) -> Result<Plan, LeaseError> {
        if !self.is_current(owner) {
            return Err(LeaseError::Retired);
        }
        let (Some(cursor), Some(state)) = (self.cursors.get_mut(&(owner.exporter.0, lane.0)), self.lanes.get(&lane.0))
        else {
            return Ok(Plan::Nothing);
        };
        let newest = pick == Pick::Backlog { newest: true };
        if !matches!(pick, Pick::Live { .. })
            && let Some(window) = cursor.take_returned(newest)
        {
            return Ok(Plan::Again(window));
        }
        cursor.skip_absences();
        state.pass_hollow(cursor);
        let unread = match pick {
            Pick::Oldest => cursor.unread().into_iter().next(),
            Pick::Backlog { newest } => backlog(cursor.unread(), newest),
            Pick::Live { stale } => {
                state.turn_to_live(cursor, stale, enough, &self.chronicle, now);
                cursor.unread().pop()
            }
        };
        let Some(unread) = unread else { return Ok(Plan::Nothing) };
        let (index, total) = unread.start();
        let (_, end) = cursor.end(total, state.next_index, state.tip);
        let floats = cursor.jump == Some((index, total));
        Ok(if total < end { Plan::From(Front { index, total, floats, newest }) } else { Plan::Nothing })
    }

    /// Whether these totals are unread, all of them in one stretch.
    pub(crate) fn is_unread(&self, owner: Owner, lane: Lane, totals: &Range<u64>) -> bool {
        let cursor = self.cursors.get(&(owner.exporter.0, lane.0));
        cursor.and_then(|c| c.unread_at(totals.start)).is_some_and(|u| totals.end <= u.totals.end)
    }

    /// Nothing can be read where live data was thought to begin: it begins where the last window ends.
    pub(crate) fn forget_jump(&mut self, exporter: ExporterNo, lane: Lane) {
        if let Some(cursor) = self.cursors.get_mut(&(exporter.0, lane.0)) {
            cursor.jump = None;
        }
    }

    /// Hands out what was read from this front on: blocks `index` with totals `totals`. A hole in front of them is lost
    /// to corruption, but for what was burnt. `None` when the front moved meanwhile (eviction): plan again.
    pub(crate) fn take_new(
        &mut self,
        owner: Owner,
        lane: Lane,
        floats: bool,
        index: Range<u64>,
        totals: Range<u64>,
        cut: Cut,
    ) -> Option<Window> {
        if !self.is_current(owner) {
            return None;
        }
        let cursor = self.cursors.get(&(owner.exporter.0, lane.0))?;
        let unread = cursor.unread_at(totals.start)?;
        if index.start < unread.index.start || totals.end > unread.totals.end {
            return None;
        }
        if totals.start > unread.totals.start && !floats {
            let to = (index.start, totals.start);
            self.pass(owner.exporter, lane, unread.start(), to, Fate::Lost(super::Reason::Corrupt));
        }
        let cursor = self.cursors.get_mut(&(owner.exporter.0, lane.0))?;
        Some(cursor.take_new(index, totals, cut))
    }

    /// What is unread between these places, index and total, has this fate, but for what was burnt. Returns the items that have it.
    pub(crate) fn pass(
        &mut self,
        exporter: ExporterNo,
        lane: Lane,
        from: (u64, u64),
        to: (u64, u64),
        fate: Fate,
    ) -> u64 {
        let (Some(cursor), Some(state)) = (self.cursors.get_mut(&(exporter.0, lane.0)), self.lanes.get(&lane.0)) else {
            return 0;
        };
        let Some([from, to]) = cursor.clip(from, to) else { return 0 };
        let never = state.never(cursor, &(from.1..to.1));
        cursor.pass(from, to, never, fate);
        cursor.skip_absences();
        self.forget_burnt(lane);
        (to.1 - from.1) - never
    }

    pub(crate) fn cursor_mut(&mut self, exporter: ExporterNo, lane: Lane) -> Option<&mut Cursor> {
        self.cursors.get_mut(&(exporter.0, lane.0))
    }

    /// Where what the exporter may read of the lane from this total on ends, index and total: at its tip, which no block has a total
    /// beyond, where it was away, or where younger data was handed out before.
    pub(crate) fn end(&self, exporter: ExporterNo, lane: Lane, from: u64) -> (u64, u64) {
        let Some(state) = self.lanes.get(&lane.0) else { return (0, 0) };
        let cursor = self.cursors.get(&(exporter.0, lane.0));
        cursor.map_or((state.next_index, state.tip), |c| c.end(from, state.next_index, state.tip))
    }

    /// Whether what lies at this total is a backlog: its end does not move.
    pub(crate) fn is_backlog(&self, exporter: ExporterNo, lane: Lane, total: u64) -> bool {
        let cursor = self.cursors.get(&(exporter.0, lane.0));
        cursor.and_then(|c| c.unread_at(total)).is_some_and(|u| u.is_backlog())
    }

    /// What was burnt and some cursor has still to pass: a block found there is skipped.
    pub(crate) fn is_burnt(&self, h: &Header) -> bool {
        let items = h.accepted_before()..h.accepted_total;
        self.lanes.get(&h.lane.0).is_some_and(|l| overlap(&l.burnt, &items) > 0)
    }

    /// This block is there: it was accepted, and so was all before it, whatever the books knew of them. One of this life that lies
    /// beyond the tip has no answer yet and is left alone.
    pub(crate) fn found(&mut self, h: &Header) {
        let is_old = h.index < self.epoch_base;
        if let Some(lane) = self.lanes.get_mut(&h.lane.0)
            && (is_old || h.accepted_total <= lane.tip)
        {
            lane.reaches(h.accepted_total);
        }
    }

    /// A segment is going: everything of `lane` below this place is lost{evicted}. Should the books not have known of it, it was
    /// accepted all the same. Returns the items that are, summed over the exporters.
    pub(crate) fn evict(&mut self, lane: Lane, index: u64, total: u64, fate: Fate) -> u64 {
        let is_aside = self.is_aside(lane);
        if let Some(state) = self.lanes.get_mut(&lane.0) {
            if is_aside && total > state.tip {
                state.burn_to(total); // its own lane has it still
            }
            state.reaches(total);
            if index > state.next_index {
                (state.next_index, state.dirty) = (index, true);
            }
        }
        let readers: Vec<ExporterNo> = self.readers(lane).map(|(no, _)| no).collect();
        readers.into_iter().map(|exporter| self.give_up(exporter, lane, index, total, fate)).sum()
    }

    /// Everything of `lane` below this place has this fate for one exporter, as far as it was its own and not settled. Returns
    /// the items that have it.
    fn give_up(&mut self, exporter: ExporterNo, lane: Lane, index: u64, total: u64, fate: Fate) -> u64 {
        let at = (exporter.0, lane.0);
        let (Some(state), Some(cursor)) = (self.lanes.get(&lane.0), self.cursors.get_mut(&at)) else { return 0 };
        let never = state.never_of(cursor, total);
        let gone = cursor.evict_below(index, total, never, fate);
        self.forget_burnt(lane);
        gone
    }

    /// A person gives up everything that waits for the exporter in the lane, or is held there. Returns how many items.
    pub(crate) fn discard(&mut self, exporter: ExporterNo, lane: Lane) -> u64 {
        let Some((index, total)) = self.lanes.get(&lane.0).map(|state| (state.next_index, state.tip)) else { return 0 };
        self.give_up(exporter, lane, index, total, Fate::Lost(super::Reason::Dropped))
    }

    /// Lanes that lie beside others, by whose they are and what for: side, owner, its name, lane, pipeline, items.
    pub(crate) fn beside(&self, side: Side) -> Vec<Beside> {
        let beside = |((exporter, lane), cursor): (&(u32, u32), &Cursor)| {
            let (owner, state) = (self.exporters.get(exporter)?, self.lanes.get(lane)?);
            let pipeline = main_lane_name(&state.name, &owner.name);
            let is_it = pipeline != state.name && state.name.starts_with(side.name());
            is_it.then(|| Beside {
                owner: Owner { exporter: ExporterNo(*exporter), generation: owner.generation },
                exporter: owner.name.clone(),
                lane: Lane(*lane),
                pipeline: pipeline.to_owned(),
                items: state.waiting(cursor),
            })
        };
        self.cursors.iter().filter_map(beside).collect()
    }

    /// The same of the lanes of pipelines, and whether the exporter reads there no more.
    pub(crate) fn own_lanes(&self) -> Vec<(Beside, bool)> {
        let own = |((exporter, lane), cursor): (&(u32, u32), &Cursor)| {
            let (owner, state) = (self.exporters.get(exporter)?, self.lanes.get(lane)?);
            let is_own = main_lane_name(&state.name, &owner.name) == state.name;
            is_own.then(|| {
                let owner_now = Owner { exporter: ExporterNo(*exporter), generation: owner.generation };
                let (name, pipeline) = (owner.name.clone(), state.name.clone());
                let items = state.waiting(cursor);
                (Beside { owner: owner_now, exporter: name, lane: Lane(*lane), pipeline, items }, cursor.is_away())
            })
        };
        self.cursors.iter().filter_map(own).collect()
    }

    /// Whether somebody has a window of the lane.
    pub(crate) fn is_out(&self, lane: Lane) -> bool {
        let mut cursors = self.cursors.iter().filter(|((_, l), _)| *l == lane.0);
        cursors.any(|(_, cursor)| cursor.windows.iter().any(|window| window.out && !window.done()))
    }

    /// A side lane: from where on its one reader still has something there, and its end, as indices.
    pub(crate) fn held_range(&self, lane: Lane) -> (u64, u64) {
        let below = self.cursors.iter().filter(|((_, l), _)| *l == lane.0).map(|(_, c)| c.below).min();
        let end = self.lanes.get(&lane.0).map_or(0, |state| state.next_index);
        (below.unwrap_or(end), end)
    }

    fn forget_burnt(&mut self, lane: Lane) {
        // Who was away then does not come to it.
        let minds = |c: &Cursor, r: &Range<u64>| {
            let away = c.absences.iter().any(|a| a.totals.start <= r.start && r.end <= a.totals.end);
            !away && c.unread().iter().any(|u| u.totals.start < r.end && r.start < u.totals.end)
        };
        let cursors: Vec<&Cursor> = self.cursors.iter().filter(|((_, l), _)| *l == lane.0).map(|(_, c)| c).collect();
        if let Some(state) = self.lanes.get_mut(&lane.0).filter(|_| !cursors.is_empty()) {
            state.burnt.retain(|r| cursors.iter().any(|c| minds(c, r)));
        }
    }

    pub(crate) fn waiting(&self, owner: Owner, lane: Lane) -> Waiting {
        let (Some(cursor), Some(state)) = (self.cursors.get(&(owner.exporter.0, lane.0)), self.lanes.get(&lane.0))
        else {
            return Waiting::default();
        };
        let returned = cursor.returned_items();
        let unread = cursor.unread();
        // What may be there is looked for at once: what is not is passed then.
        let of = |u: &Unread| state.fresh_of(cursor, u) + u64::from(state.may_hold_more_of(cursor, u));
        let (first, last) = (&unread[0], &unread[unread.len() - 1]);
        let (live, fresh) = (of(last), unread.iter().map(of).sum::<u64>());
        let accepted = |u: &Unread| state.accepted_at(u.start(), &self.chronicle);
        let oldest = if returned > 0 { None } else { accepted(first) };
        Waiting { items: returned + fresh, oldest, live, live_oldest: accepted(last), asked: 0 }
    }

    /// How many of these blocks of the lane some exporter may still need, at most; all of them when nobody ever joined it (its
    /// data is held).
    pub(crate) fn needed(&self, lane: Lane, blocks: &Range<u64>) -> u64 {
        let all = blocks.end - blocks.start;
        let mut cursors = self.cursors.iter().filter(|((_, l), _)| *l == lane.0).map(|(_, c)| c).peekable();
        let Some(state) = self.lanes.get(&lane.0).filter(|_| cursors.peek().is_some()) else { return all };
        // Of one that is away, with nothing left but what was burnt, the frontier does not move any more.
        let is_done = |c: &Cursor| c.is_away() && state.waiting(c) == 0 && !state.may_hold_more(c);
        let still = cursors.filter(|cursor| !is_done(cursor));
        still.map(|cursor| cursor.needed(blocks)).sum::<u64>().min(all)
    }

    /// Whether some exporter still needs the block, or nobody ever joined its lane.
    pub(crate) fn is_live(&self, lane: Lane, index: u64) -> bool {
        let mut cursors = self.cursors.iter().filter(|((_, l), _)| *l == lane.0).map(|(_, c)| c).peekable();
        cursors.peek().is_none() || cursors.any(|c| !c.is_settled(index))
    }

    /// What waits to be sent, by pipeline and exporter, park lanes beside their own: the lane, and when the oldest of what
    /// nobody had yet was accepted, as far as that is remembered.
    pub(crate) fn waits(&self) -> Vec<Waits<'_>> {
        let waits = |((exporter, lane), cursor): (&(u32, u32), &Cursor)| {
            let (owner, state) = (self.exporters.get(exporter)?, self.lanes.get(lane)?);
            let pipeline = self.sends(Lane(*lane), &owner.name)?;
            if state.waiting(cursor) == 0 {
                return None;
            }
            let from = cursor.unread()[0].index.start;
            let recent = state.recent.get(state.recent.partition_point(|r| r.index < from));
            let recent = recent.map(|r| Came { accepted: r.accepted, boot: r.boot, index: r.index });
            Some(Waits { pipeline, exporter: &owner.name, at: (ExporterNo(*exporter), Lane(*lane)), recent })
        };
        self.cursors.iter().filter_map(waits).collect()
    }

    /// Items that wait, over all cursors; for "is there anything left".
    pub(crate) fn waiting_items(&self) -> u64 {
        self.cursors.iter().filter_map(|((_, lane), c)| Some(self.lanes.get(lane)?.waiting(c))).sum()
    }

    /// Promise P2, one book per pipeline and exporter, side lanes included. Should the identity not hold (only our own
    /// mistake can do that), it is said in the log: whoever looks then needs the numbers more than ever.
    pub(crate) fn books(&self) -> Vec<Book> {
        if cfg!(debug_assertions) {
            self.cursors.values().for_each(Cursor::audit);
        }
        let books = self.books_as_they_are();
        for book in &books {
            let sum = book.sum();
            debug_assert_eq!(book.accepted, sum, "the identity of the books: {book:?}");
            if book.accepted != sum {
                tracing::error!(
                    pipeline = book.lane,
                    exporter = book.exporter,
                    book.accepted,
                    sum,
                    "spool books do not add up"
                );
            }
        }
        books
    }

    /// The same of records that may have been damaged, whether they add up or not.
    pub(crate) fn books_as_they_are(&self) -> Vec<Book> {
        let by_name = self.by_name();
        self.cursors.keys().filter_map(|(exporter, lane)| self.book_of(*exporter, *lane, &by_name)).collect()
    }

    /// The book of a pipeline's lane and an exporter; of a side lane it is entered with its pipeline's.
    fn book_of(&self, exporter: u32, lane: u32, by_name: &ByName<'_>) -> Option<Book> {
        let (owner, state) = (self.exporters.get(&exporter)?, self.lanes.get(&lane)?);
        let cursor = self.cursors.get(&(exporter, lane))?;
        if main_lane_name(&state.name, &owner.name) != state.name {
            return None;
        }
        let mut book = Book { lane: state.name.clone(), exporter: owner.name.clone(), ..Book::default() };
        book.accepted = state.tip.wrapping_sub(cursor.base) - cursor.counts.burnt - state.never_of(cursor, state.tip);
        book.delivered = cursor.counts.delivered;
        book.waiting = state.waiting(cursor);
        book.lost = cursor.counts.lost;
        let missed = self.missed_of(exporter, lane);
        book.accepted += missed;
        book.lost[super::Reason::Evicted as usize] += missed;
        for (side, no) in Side::ALL.into_iter().zip(self.sides(exporter, lane, by_name)) {
            let beside = no.and_then(|no| Some((self.lanes.get(&no)?, self.cursors.get(&(exporter, no))?)));
            let Some((side_lane, c)) = beside else { continue };
            book.delivered += c.counts.delivered;
            for (sum, n) in book.lost.iter_mut().zip(c.counts.lost) {
                *sum += n;
            }
            *match side {
                Side::Park => &mut book.waiting,
                Side::Dead => &mut book.dead_letters,
                Side::Quarantine => &mut book.quarantined,
            } += side_lane.waiting(c);
        }
        Some(book)
    }

    /// The lanes beside a pipeline's for an exporter, one for each side that there is.
    fn sides(&self, exporter: u32, lane: u32, by_name: &ByName<'_>) -> [Option<u32>; 3] {
        let (Some(owner), Some(state)) = (self.exporters.get(&exporter), self.lanes.get(&lane)) else {
            return [None; 3];
        };
        Side::ALL.map(|side| {
            let name = format!("{}/{}/{}", side.name(), owner.name, state.name);
            by_name.get(&name[..]).copied()
        })
    }

    fn by_name(&self) -> ByName<'_> {
        self.lanes.iter().map(|(no, lane)| (&lane.name[..], *no)).collect()
    }

    /// Whether the lane lies beside a pipeline's.
    fn is_aside(&self, lane: Lane) -> bool {
        let name = self.lane_name(lane);
        self.exporters.values().any(|owner| main_lane_name(name, &owner.name) != name)
    }

    /// Lanes: number, name, signal and the total at their tip.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = (Lane, &str, Signal, u64)> {
        self.lanes.iter().map(|(no, lane)| (Lane(*no), &lane.name[..], lane.signal, lane.tip))
    }

    /// The pipeline whose data this exporter is to send from the lane: its own, or what it parked of it. `None` for what is
    /// held for a person.
    pub(crate) fn sends(&self, lane: Lane, exporter: &str) -> Option<&str> {
        let name = &self.lanes.get(&lane.0)?.name;
        let pipeline = main_lane_name(name, exporter);
        (pipeline == name || name.starts_with(Side::Park.name())).then_some(pipeline)
    }

    /// Who ever joined a lane.
    pub(crate) fn readers(&self, lane: Lane) -> impl Iterator<Item = (ExporterNo, &str)> {
        let of_lane = self.cursors.keys().filter(move |(_, l)| *l == lane.0);
        of_lane.filter_map(|(exporter, _)| Some((ExporterNo(*exporter), &self.exporters.get(exporter)?.name[..])))
    }

    /// What of these totals of a lane is its exporter's and not settled: without what was burnt or came while it was away.
    pub(crate) fn open(&self, exporter: ExporterNo, lane: Lane, totals: Range<u64>) -> Vec<Range<u64>> {
        let (Some(cursor), Some(state)) = (self.cursors.get(&(exporter.0, lane.0)), self.lanes.get(&lane.0)) else {
            return Vec::new();
        };
        let mut never = cursor.taken();
        never.push(0..cursor.below_total);
        never.extend(state.burnt.iter().chain(&state.doubtful).cloned());
        never.extend(cursor.absences.iter().map(|a| a.totals.clone()));
        never.sort_by_key(|r| r.start);
        subtract(totals, &never)
    }
}

/// Which of the backlogs in what is unread is next. When there are many, the smallest, so that there are soon fewer.
fn backlog(mut unread: Vec<Unread>, newest: bool) -> Option<Unread> {
    unread.retain(Unread::is_backlog);
    let items = |u: &Unread| u.totals.end - u.totals.start;
    match (unread.len() > UNREAD_MAX / 2, newest) {
        (true, _) => unread.into_iter().min_by_key(items),
        (false, true) => unread.pop(),
        (false, false) => unread.into_iter().next(),
    }
}

/// What of `part` lies in none of `ranges`, which are sorted.
pub(super) fn subtract(part: Range<u64>, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut open = Vec::new();
    let mut at = part.start;
    for r in ranges.iter().filter(|r| r.start < part.end && part.start < r.end) {
        if at < r.start {
            open.push(at..r.start);
        }
        at = at.max(r.end);
    }
    if at < part.end {
        open.push(at..part.end);
    }
    open
}

/// See [`Ledger::open_lanes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenLane {
    pub(crate) lane: Lane,
    /// Nothing below this index and total is needed.
    pub(crate) from: (u64, u64),
    /// A block of this index or above was not entered yet.
    pub(crate) end: u64,
}

/// See [`Ledger::waits`].
#[derive(Debug)]
pub(crate) struct Waits<'a> {
    pub(crate) pipeline: &'a str,
    pub(crate) exporter: &'a str,
    pub(crate) at: (ExporterNo, Lane),
    pub(crate) recent: Option<Came>,
}

/// When a block came in, as far as its age is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) accepted: Stamp,
    pub(crate) boot: BootId,
    pub(crate) index: u64,
}

impl From<&Header> for Came {
    fn from(h: &Header) -> Came {
        Came { accepted: h.accepted, boot: h.boot, index: h.index }
    }
}

/// What an exporter has in a lane.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    pub(crate) owner: Owner,
    pub(crate) exporter: String,
    pub(crate) lane: Lane,
    pub(crate) pipeline: String,
    /// Not settled.
    pub(crate) items: u64,
}

/// Where an exporter sets things aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Waits for its next turn.
    Park,
    /// Waits for a person: the far end refused it.
    Dead,
    /// Waits for a person: handling it failed twice.
    Quarantine,
}

impl Side {
    const ALL: [Side; 3] = [Side::Park, Side::Dead, Side::Quarantine];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Side::Park => "park",
            Side::Dead => "dead",
            Side::Quarantine => "quarantine",
        }
    }
}

/// The pipeline behind a lane's name: `logs` for `park/otlphttp/logs` of exporter `otlphttp`.
fn main_lane_name<'a>(name: &'a str, exporter: &str) -> &'a str {
    let side =
        |kind: Side| name.strip_prefix(kind.name())?.strip_prefix('/')?.strip_prefix(exporter)?.strip_prefix('/');
    Side::ALL.into_iter().find_map(side).unwrap_or(name)
}

impl LaneState {
    /// How much of `range`, which is unread, is none of the cursor's own: it was burnt, or came while it was away.
    fn never(&self, cursor: &Cursor, range: &Range<u64>) -> u64 {
        let away = |totals: &Range<u64>| totals.start.max(range.start)..totals.end.min(range.end);
        let absences = cursor.absences.iter().map(|a| away(&a.totals)).filter(|r| !r.is_empty());
        let absent: u64 = absences.map(|r| r.end - r.start - self.nobodys(&r)).sum();
        self.nobodys(range) + absent
    }

    /// The same of all that is unread below this total.
    fn never_of(&self, cursor: &Cursor, total: u64) -> u64 {
        let below = |u: Unread| u.totals.start.min(total)..u.totals.end.min(total);
        cursor.unread().into_iter().map(|u| self.never(cursor, &below(u))).sum()
    }

    /// How much of `range` was burnt, or is only doubtful.
    fn nobodys(&self, range: &Range<u64>) -> u64 {
        overlap(&self.burnt, range) + overlap(&self.doubtful, range)
    }

    /// Whether there may be blocks for the cursor of which the books do not know.
    fn may_hold_more(&self, cursor: &Cursor) -> bool {
        cursor.unread().iter().any(|u| self.may_hold_more_of(cursor, u))
    }

    /// The same of a stretch of what is unread.
    fn may_hold_more_of(&self, cursor: &Cursor, unread: &Unread) -> bool {
        let (from, end) = (unread.totals.start, cursor.end(unread.totals.start, self.next_index, self.tip).1);
        self.doubtful.iter().any(|r| r.end > from && r.start < end)
    }

    /// When the block at this place, index and total, was accepted, if that is remembered.
    fn accepted_at(&self, (index, total): (u64, u64), chronicle: &Chronicle) -> Option<Stamp> {
        let at = self.recent.partition_point(|r| r.index < index);
        let known = self.recent.get(at).filter(|r| at > 0 || r.before <= total)?;
        chronicle.is_present(known.boot).then_some(known.accepted)
    }

    /// Passes backlogs of which nothing was ever there: nobody would ask for them, and they would hold their segments.
    fn pass_hollow(&self, cursor: &mut Cursor) {
        let is_hollow =
            |c: &Cursor, u: &Unread| u.is_backlog() && self.fresh_of(c, u) == 0 && !self.may_hold_more_of(c, u);
        for u in cursor.unread() {
            if is_hollow(cursor, &u) {
                let never = self.never(cursor, &u.totals);
                cursor.pass(u.start(), (u.index.end, u.totals.end), never, Fate::Burnt);
                cursor.absences.retain(|a| a.totals.end > u.totals.end || a.totals.start < u.totals.start);
            }
        }
    }

    /// If the oldest of what comes in has waited for longer than `stale`, only what is younger is live from now on; but no
    /// single window is left behind for that.
    fn turn_to_live(&self, cursor: &mut Cursor, stale: Duration, enough: u64, chronicle: &Chronicle, now: Stamp) {
        let unread = cursor.unread();
        let last = &unread[unread.len() - 1];
        let is_young = |accepted: Stamp| now.since(accepted) <= stale;
        if unread.len() >= UNREAD_MAX
            || cursor.is_away()
            || self.fresh_of(cursor, last) <= enough
            || self.accepted_at(last.start(), chronicle).is_some_and(is_young)
        {
            return;
        }
        let young = self.recent.iter().find(|r| chronicle.is_present(r.boot) && is_young(r.accepted));
        let to = young.map_or((self.next_index, self.tip), |r| (r.index, r.before));
        let away = cursor.absences.iter().find(|a| a.totals.contains(&to.1));
        let to = away.map_or(to, |a| (a.index.end, a.totals.end));
        if to.1 > last.totals.start && to.0 >= last.index.start {
            cursor.jump = Some(to);
        }
    }

    /// So much was accepted.
    fn reaches(&mut self, total: u64) {
        // At its end begins what was accepted since.
        if let Some(doubt) = self.doubtful.iter_mut().find(|r| r.start < total && total < r.end) {
            (doubt.start, self.dirty) = (total, true);
        }
        if total > self.tip {
            (self.tip, self.dirty) = (total, true);
        }
    }

    /// What is beyond the tip, up to this total, never was here.
    fn burn_to(&mut self, total: u64) {
        push_range(&mut self.burnt, self.tip..total);
        (self.tip, self.dirty) = (total, true);
    }

    /// Items that are unread and were accepted for the cursor.
    fn fresh(&self, cursor: &Cursor) -> u64 {
        cursor.unread().iter().map(|u| self.fresh_of(cursor, u)).sum()
    }

    /// The same of one stretch of them.
    fn fresh_of(&self, cursor: &Cursor, unread: &Unread) -> u64 {
        let (from, end) = (unread.totals.start, unread.totals.end.min(self.tip));
        end.saturating_sub(from) - self.never(cursor, &(from..end.max(from)))
    }

    fn waiting(&self, cursor: &Cursor) -> u64 {
        cursor.unsettled_items() + self.fresh(cursor)
    }

    fn write(&self) -> Vec<u8> {
        let mut pen = Pen::default();
        pen.u8(if self.doubtful.is_empty() { 1 } else { 2 });
        pen.u8(self.signal as u8);
        pen.text(&self.name);
        pen.u64(self.next_index);
        pen.u64(self.tip);
        for ranges in [&self.burnt, &self.doubtful].into_iter().take(1 + usize::from(!self.doubtful.is_empty())) {
            pen.count(ranges.len());
            for r in ranges {
                pen.u64(r.start);
                pen.u64(r.end);
            }
        }
        pen.seal()
    }

    fn read(record: &[u8], epoch_base: u64) -> Result<LaneState, Damage> {
        let mut eye = Eye::unseal(record)?;
        let unknown = |what, found: u8| Damage::Unknown { what, found: found.into() };
        let version = eye.u8()?;
        if !(1..=2).contains(&version) {
            return Err(unknown("lane version", version));
        }
        let signal = eye.u8()?;
        let signal = Signal::from_u8(signal).ok_or(unknown("signal", signal))?;
        let name = eye.text()?;
        let next_index = eye.u64()?.max(epoch_base);
        let mut lane = LaneState {
            name,
            signal,
            next_index,
            tip: eye.u64()?,
            burnt: Vec::new(),
            doubtful: Vec::new(),
            recent: VecDeque::new(),
            newest: None,
            dirty: false,
        };
        for ranges in [&mut lane.burnt, &mut lane.doubtful].into_iter().take(version.into()) {
            for _ in 0..eye.count(16)? {
                ranges.push(eye.u64()?..eye.u64()?);
            }
        }
        Ok(lane)
    }
}

/// How much of `range` lies in `ranges`.
fn overlap(ranges: &[Range<u64>], range: &Range<u64>) -> u64 {
    ranges.iter().map(|r| r.end.min(range.end).saturating_sub(r.start.max(range.start))).sum()
}

/// Appends a range, growing the last one when they touch.
fn push_range(ranges: &mut Vec<Range<u64>>, new: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == new.start => last.end = new.end,
        _ => ranges.push(new),
    }
}

mod losses;
#[cfg(test)]
mod tests;
