//! No fence is shown twice, whatever is killed, cut, copied or mounted elsewhere between.

use proptest::prelude::*;

use super::{
    Totals,
    fences::{Era, Fences, Mark},
};
use crate::{lock::Fence, sealed};

/// A start, a disk, and what becomes of them.
#[derive(Debug, Clone)]
enum Step {
    /// A run starts through that mount, or on a kernel that cannot tell; `dies`: after how many steps it is killed.
    Start { mount: Option<u8>, noted: bool, dies: u8 },
    /// A start whose fence nobody is shown.
    Unshown { mount: u8 },
    /// Some run ends, and syncs.
    Sync,
    /// Power cut: so many of the unsynced lines and, or not, the mark that was there reach the disk all the same.
    Cut { lines: usize, mark: MarkFate },
    /// The directory as memory shows it is copied, and only the copy used.
    Copy,
}

#[derive(Debug, Clone, Copy)]
enum MarkFate {
    Gone,
    Kept,
    /// The one that was on disk when the last line was synced.
    Old,
}

fn steps() -> impl Strategy<Value = Step> {
    let mount = prop_oneof![6 => Just(Some(0)), 1 => Just(Some(1)), 1 => Just(None)];
    let fate = prop::sample::select(vec![MarkFate::Gone, MarkFate::Kept, MarkFate::Old]);
    prop_oneof![
        60 => (mount, any::<bool>(), prop_oneof![9 => Just(9u8), 2 => 0..4u8])
            .prop_map(|(mount, noted, dies)| Step::Start { mount, noted, dies }),
        4 => (0..2u8).prop_map(|mount| Step::Unshown { mount }),
        20 => Just(Step::Sync),
        4 => (0..4usize, fate).prop_map(|(lines, mark)| Step::Cut { lines, mark }),
        1 => Just(Step::Copy),
    ]
}

#[derive(Debug, Default)]
struct World {
    /// The sums after each line.
    lines: Vec<Totals>,
    /// How many of them are on disk.
    durable: usize,
    mark: Option<Mark>,
    old_mark: Option<Mark>,
    boot: u32,
    inode: u64,
    shown: u64,
    /// What the lock's note says, as long as the power is there.
    noted: u64,
}

impl World {
    fn fences(&self, mount: Option<u8>) -> Fences {
        let era = mount.map(|mount| Era::new(&self.boot.to_string(), u64::from(mount), self.inode));
        Fences::new(era, self.mark.clone())
    }

    fn sums(&self) -> Totals {
        self.lines.last().cloned().unwrap_or_default()
    }

    fn append(&mut self, fence: Fence, reserve: u64) {
        let mut sums = self.sums();
        sums.fence = sums.fence.max(fence.0);
        sums.reserved = sums.reserved.max(reserve);
        self.lines.push(sums);
    }

    fn sync(&mut self) {
        self.durable = self.lines.len();
        self.old_mark = self.mark.clone();
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Start { mount, noted, dies } => {
                let sums = self.sums();
                let next = self.fences(mount).next(&sums, Fence(if noted { self.noted + 1 } else { 0 }));
                prop_assert!(next.fence.0 > self.shown, "{next:?} after {} was shown", self.shown);
                prop_assert!(next.fence.0 > sums.fence);
                prop_assert!(next.sync_first || next.fence.0 <= sums.reserved);
                if dies == 0 {
                    return Ok(());
                }
                self.append(next.fence, next.reserve);
                self.noted = next.fence.0;
                if dies == 1 {
                    return Ok(());
                }
                if next.sync_first {
                    self.sync();
                    if dies == 2 {
                        return Ok(());
                    }
                    self.mark = next.mark.or_else(|| self.mark.take());
                }
                self.shown = next.fence.0;
            }
            Step::Unshown { mount } => {
                let next = self.fences(Some(mount)).next(&self.sums(), Fence(0));
                self.append(next.fence, 0);
            }
            Step::Sync => self.sync(),
            Step::Cut { lines, mark } => {
                self.lines.truncate(self.durable + lines);
                self.durable = self.lines.len();
                self.mark = match mark {
                    MarkFate::Gone => None,
                    MarkFate::Kept => self.mark.take(),
                    MarkFate::Old => self.old_mark.clone(),
                };
                self.boot += 1;
                self.noted = 0;
            }
            // It may have lines that the original lost later, but never fewer than the original synced.
            Step::Copy => self.inode += 1,
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_fence_is_shown_twice(steps in prop::collection::vec(steps(), 1..300)) {
        let mut world = World::default();
        for step in &steps {
            world.take(step)?;
        }
    }
}

#[test]
fn one_start_in_64_is_synced_first() {
    let mut world = World::default();
    let mut first = Vec::new();
    for run in 1..=130 {
        let next = world.fences(Some(0)).next(&world.sums(), Fence(0));
        assert_eq!(next.fence, Fence(run), "without a crash no number is left out");
        first.extend(next.sync_first.then_some(run));
        world.take(&Step::Start { mount: Some(0), noted: true, dies: 9 }).unwrap();
    }
    assert_eq!(first, [1, 65, 129]);
}

#[test]
fn where_the_kernel_cannot_tell_every_start_is_synced_first() {
    let totals = Totals { fence: 5, reserved: 64, ..Totals::default() };
    let next = Fences::new(None, None).next(&totals, Fence(0));
    assert_eq!((next.fence, next.sync_first, next.reserve, next.mark), (Fence(65), true, 0, None));
    let totals = Totals { fence: 65, ..totals };
    assert_eq!(Fences::new(None, None).next(&totals, Fence(0)).fence, Fence(66));
}

#[test]
fn a_mark_counts_only_where_it_was_left_and_for_what_the_sums_say() {
    let era = |boot: &str, mount, inode| Some(Era::new(boot, mount, inode));
    let sums = Totals { fence: 5, reserved: 64, ..Totals::default() };
    let mark = Fences::new(era("a", 1, 1), None).next(&Totals::default(), Fence(0)).mark;
    let at = |era, totals: &Totals, noted| {
        let next = Fences::new(era, mark.clone()).next(totals, Fence(noted));
        (next.fence.0, next.sync_first)
    };
    assert_eq!(at(era("a", 1, 1), &sums, 0), (6, false));
    assert_eq!(at(era("a", 1, 1), &sums, 64), (64, false));
    assert_eq!(at(era("a", 1, 1), &sums, 65), (65, true), "used up");
    for elsewhere in [era("b", 1, 1), era("a", 2, 1), era("a", 1, 2), None] {
        assert_eq!(at(elsewhere, &sums, 0), (65, true));
    }
    let unknown = Totals { reserved: 128, ..sums };
    assert_eq!(at(era("a", 1, 1), &unknown, 0), (129, true), "another reservation");
}

#[test]
fn a_mark_is_read_whole_or_not_at_all() {
    let mark = Fences::new(Some(Era::new("a", u64::MAX, u64::MAX)), None).next(&Totals::default(), Fence(0)).mark;
    let mark = mark.unwrap();
    let block = mark.encode();
    assert_eq!(Mark::decode(&block), Ok(Some(mark)));
    for at in 0..block.len() {
        let mut torn = block.clone();
        torn[at..].fill(0);
        let whole = block[at..].trim_ascii_end().is_empty();
        assert!(whole || Mark::decode(&torn) == Ok(None), "torn at {at}");
    }
    assert_eq!(Mark::decode(b""), Ok(None));
    let newer = |body: &str| {
        let mut bytes = body.as_bytes().to_vec();
        sealed::seal(&mut bytes, 0);
        Mark::decode(&bytes)
    };
    assert_eq!(newer("{\"format\":2,\"news\":[]"), Err(2));
    assert_eq!(newer("{\"format\":1,\"reserved\":\"?\""), Ok(None));
}
