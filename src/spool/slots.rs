//! The few numbers that must outlive every segment, in a file that is only ever overwritten in place, so that it can
//! be written with no free byte and no free inode (`docs/spool-format.md` §4).
//!
//! ```text
//! 0 ── slot A ── 4,096 ── slot B ── 8,192 ── marks ── 12,288
//!      the slot with the higher generation and a right checksum counts; the other one is written next
//! ```

use super::codec::{Damage, Eye, Pen};
use super::disk::clear;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const PAGE: u64 = 4_096;
/// The version of the whole format (`docs/spool-format.md`). It is raised by whatever an agent of before would misread, and not by
/// what it passes over; who finds a higher one keeps its hands off.
///
/// 2: a cursor may have left a backlog behind (version 4 of its record), which one of before passes over, with all that waits.
pub(crate) const FORMAT: u8 = 2;
const MAGIC: u64 = 0x544f_4c53_4f46_5431; // "1TFOSLOT", little endian
/// Most marks in the page: one per window that is being handled; each takes 26 bytes.
const MARKS_MAX: usize = 128;

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    generation: u64,
    /// The spool's own name, part of every upload id.
    pub(crate) uuid: u128,
    /// Which machine it was made on: cloned cards must not share a uuid.
    pub(crate) machine: u64,
    /// Starts so far; the high half of every index.
    pub(crate) epoch: u32,
    /// The last life stopped in order.
    pub(crate) clean: bool,
}

/// Blocks somebody is handling, or was when that ended badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) exporter: u32,
    pub(crate) lane: u32,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Evidence so far that handling these ends badly.
    pub(crate) evidence: u8,
    /// They are being handled at this moment; otherwise this is what is left of a suspicion.
    pub(crate) active: bool,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Slots {
    path: PathBuf,
    file: File,
    now: Slot,
}

impl Slots {
    /// Opens or makes the file and begins a new epoch: synced when this returns. `fresh` gives a new uuid for a new
    /// spool or a cloned one; `epoch_floor` is above every epoch found in the segments, for the day both slots are bad.
    ///
    /// # Errors
    /// When the file cannot be made, read or synced.
    pub(crate) fn begin(
        path: &Path,
        machine: u64,
        epoch_floor: u32,
        fresh: impl FnOnce() -> u128,
    ) -> io::Result<Slots> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let len = file.metadata()?.len();
        if len < 3 * PAGE {
            // Written, not set_len: the bytes must be there when the disk is full. What is there of a shorter one stays.
            file.write_all_at(&vec![0; usize::try_from(3 * PAGE - len).expect("12 KiB at most")], len)?;
            file.sync_all()?;
        }
        let now = match newest(&file) {
            Some(slot) if slot.machine == machine => slot,
            Some(cloned) => Slot { uuid: fresh(), machine, ..cloned },
            None => Slot { generation: 0, uuid: fresh(), machine, epoch: 0, clean: true },
        };
        let mut slots = Slots { path: path.to_owned(), file, now };
        slots.write(Slot { epoch: now.epoch.max(epoch_floor).saturating_add(1), clean: false, ..now })?;
        Ok(slots)
    }

    /// The same in a directory that took the place of ours: with our name, in an epoch above ours. `found`: there is data in
    /// it, which must be of the same name.
    ///
    /// # Errors
    /// When it is another spool's, and the disk's.
    pub(crate) fn move_in(&mut self, epoch_floor: u32, found: bool) -> io::Result<()> {
        clear(&self.path);
        let there = look(&self.path);
        if there.is_some_and(|there| there.uuid != self.now.uuid) || (found && there.is_none()) {
            return Err(io::Error::other("another spool's data is in it; the next start takes it over"));
        }
        *self = Slots::begin(&self.path, self.now.machine, epoch_floor, || self.now.uuid)?;
        Ok(())
    }

    /// The present slot; `clean` is false while we run.
    pub(crate) fn now(&self) -> Slot {
        self.now
    }

    /// Notes an orderly stop.
    ///
    /// # Errors
    /// When the sync fails; the next start then counts as after a crash, which costs nothing but a log line.
    pub(crate) fn stop_clean(&mut self) -> io::Result<()> {
        self.write(Slot { clean: true, ..self.now })
    }

    fn write(&mut self, slot: Slot) -> io::Result<()> {
        let slot = Slot { generation: slot.generation + 1, ..slot };
        let mut pen = Pen::default();
        pen.u64(MAGIC);
        pen.u8(FORMAT);
        pen.u64(slot.generation);
        pen.0.extend_from_slice(&slot.uuid.to_le_bytes());
        pen.u64(slot.machine);
        pen.u64(slot.epoch.into());
        pen.u8(slot.clean.into());
        self.file.write_all_at(&pen.seal(), (slot.generation % 2) * PAGE)?;
        self.file.sync_data()?;
        self.now = slot;
        Ok(())
    }

    /// The marks an earlier life left: it died while decoding these.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        // A page nobody wrote, or a torn one, is no marks.
        read_marks(&self.file).unwrap_or_default()
    }

    /// Replaces the marks. Not synced: a kill keeps them, and a power cut is nobody's poison.
    ///
    /// # Errors
    /// When the page cannot be written.
    pub(crate) fn set_marks(&self, marks: &[Mark]) -> io::Result<()> {
        let marks = &marks[..marks.len().min(MARKS_MAX)];
        let mut pen = Pen::default();
        pen.u8(1);
        pen.count(marks.len());
        for m in marks {
            pen.u32(m.exporter);
            pen.u32(m.lane);
            pen.u64(m.from);
            pen.u64(m.to);
            pen.u8(m.evidence);
            pen.u8(m.active.into());
        }
        let record = pen.seal();
        let mut page = Pen::default();
        page.count(record.len());
        page.0.extend_from_slice(&record);
        self.file.write_all_at(&page.0, 2 * PAGE)
    }
}

/// The slot that counts.
fn newest(file: &File) -> Option<Slot> {
    [0, PAGE].into_iter().filter_map(|at| read_slot(file, at).ok()).max_by_key(|s| s.generation)
}

/// What the slots at `path` say, without beginning anything; `None` when neither can be read.
pub(crate) fn look(path: &Path) -> Option<Slot> {
    let is_file = std::fs::metadata(path).is_ok_and(|meta| meta.is_file()); // a pipe would be waited for
    newest(&is_file.then(|| File::open(path).ok()).flatten()?)
}

/// The format of a spool that a newer agent wrote; changes nothing. A slot that is damaged says nothing: its checksum is wrong.
pub(crate) fn newer(path: &Path) -> Option<u8> {
    let is_file = std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    let file = is_file.then(|| File::open(path).ok()).flatten()?;
    let versions = [0, PAGE].into_iter().filter_map(|at| match read_slot(&file, at) {
        Err(Damage::Unknown { what: NEWER, found }) => u8::try_from(found).ok(),
        _ => None,
    });
    versions.max()
}

/// What a slot of a newer format is called among damages.
const NEWER: &str = "newer format";

fn read_slot(file: &File, at: u64) -> Result<Slot, Damage> {
    // Everything a slot has, with its checksum: 8 + 1 + 8 + 16 + 8 + 8 + 1 + 8.
    let mut record = [0; 58];
    file.read_exact_at(&mut record, at).map_err(|_| Damage::Short { offset: 0, missing: record.len() })?;
    let mut eye = Eye::unseal(&record)?;
    match (eye.u64()?, eye.u8()?) {
        (MAGIC, 1..=FORMAT) => {}
        (MAGIC, newer) if newer > FORMAT => return Err(Damage::Unknown { what: NEWER, found: newer.into() }),
        (_, version) => return Err(Damage::Unknown { what: "slot version", found: version.into() }),
    }
    Ok(Slot {
        generation: eye.u64()?,
        uuid: eye.u128()?,
        machine: eye.u64()?,
        epoch: u32::try_from(eye.u64()?).map_err(|_| Damage::Range("epoch"))?,
        clean: eye.u8()? == 1,
    })
}

fn read_marks(file: &File) -> Result<Vec<Mark>, Damage> {
    let mut page = [0; PAGE as usize];
    file.read_exact_at(&mut page, 2 * PAGE).map_err(|_| Damage::Short { offset: 0, missing: page.len() })?;
    let mut page = Eye::open(&page);
    let n = page.count(1)?;
    let mut eye = Eye::unseal(page.take(n)?)?;
    match eye.u8()? {
        1 => {}
        other => return Err(Damage::Unknown { what: "marks version", found: other.into() }),
    }
    let n = eye.count(26)?;
    (0..n)
        .map(|_| {
            Ok(Mark {
                exporter: eye.u32()?,
                lane: eye.u32()?,
                from: eye.u64()?,
                to: eye.u64()?,
                evidence: eye.u8()?,
                active: eye.u8()? == 1,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(path: &Path, machine: u64) -> Slots {
        Slots::begin(path, machine, 0, || 42).expect("a temporary directory takes a file")
    }

    #[test]
    fn every_start_has_an_epoch_of_its_own_and_the_uuid_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("slots");
        let starts: Vec<_> = (0..4).map(|_| begin(&path, 7).now()).collect();
        assert_eq!(starts.iter().map(|s| s.epoch).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(starts.iter().all(|s| s.uuid == 42 && !s.clean));
        begin(&path, 7).stop_clean().expect("writable");
        assert!(
            read_slot(&File::open(&path).expect("there"), 0).is_ok_and(|s| s.clean)
                || read_slot(&File::open(&path).expect("there"), PAGE).is_ok_and(|s| s.clean)
        );
    }

    /// Goal: an agent that was set back to an older version does not begin on what it would misread.
    #[test]
    fn a_newer_format_is_seen_in_either_slot_and_damage_is_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("slots");
        assert_eq!(newer(&path), None, "there is none");
        begin(&path, 7);
        begin(&path, 7);
        assert_eq!(newer(&path), None);
        let was = std::fs::read(&path).expect("there");
        for at in [0, PAGE] {
            let mut record = was[usize::try_from(at).expect("small")..][..50].to_vec();
            record[8] = FORMAT + 1;
            let mut pen = Pen::default();
            pen.0.extend_from_slice(&record);
            let file = OpenOptions::new().write(true).open(&path).expect("there");
            file.write_all_at(&pen.seal(), at).expect("writable");
            assert_eq!(newer(&path), Some(FORMAT + 1), "at {at}");
            file.write_all_at(&[1], at + 20).expect("writable");
            assert_eq!(newer(&path), None, "its checksum is wrong");
            std::fs::write(&path, &was).expect("writable");
        }
    }

    #[test]
    fn a_cloned_card_gets_a_name_of_its_own() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("slots");
        begin(&path, 7);
        let clone = Slots::begin(&path, 8, 0, || 43).expect("writable").now();
        assert_eq!((clone.uuid, clone.machine, clone.epoch), (43, 8, 2));
    }

    /// A torn write leaves the older slot; two bad slots leave a fresh spool whose epoch is above everything found.
    #[test]
    fn one_bad_slot_costs_nothing_and_two_cost_the_name() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("slots");
        begin(&path, 7);
        let good = begin(&path, 7).now();
        for bit in 0..58 * 8 {
            let file = OpenOptions::new().read(true).write(true).open(&path).expect("there");
            let mut was = [0; 58];
            let at = (good.generation % 2) * PAGE;
            file.read_exact_at(&mut was, at).expect("there");
            let mut bad = was;
            bad[bit / 8] ^= 1 << (bit % 8);
            file.write_all_at(&bad, at).expect("writable");
            assert!(read_slot(&file, at).is_err(), "bit {bit}");
            file.write_all_at(&was, at).expect("writable");
        }
        OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(PAGE + 100)).expect("writable");
        assert_eq!(begin(&path, 7).now().uuid, 42, "what is left of a file that was cut still counts");
        std::fs::write(&path, vec![9; 3 * PAGE as usize]).expect("writable");
        let fresh = Slots::begin(&path, 7, 5, || 44).expect("writable").now();
        assert_eq!((fresh.uuid, fresh.epoch), (44, 6));
    }

    #[test]
    fn marks_are_there_after_the_process_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("slots");
        let marks: Vec<_> =
            (0..3).map(|n| Mark { exporter: n, lane: 1, from: 5, to: 6, evidence: 1, active: n > 0 }).collect();
        begin(&path, 7).set_marks(&marks).expect("writable");
        let slots = begin(&path, 7);
        assert_eq!(slots.marks(), marks);
        slots.set_marks(&[]).expect("writable");
        assert_eq!(slots.marks(), []);
        slots.set_marks(&vec![marks[0]; 1_000]).expect("more than fit are cut, not refused");
        assert_eq!(slots.marks().len(), MARKS_MAX);
    }
}
