//! The jobs of a store on a server, for who looks, and for who ends them.
//!
//! What is running is derived from the leases, never from what a ledger says. They are read one after the other, so a run
//! may end in between, and the next one start. A wrapper appends the end before it gives its lease back; so a run is called
//! lost only when the ledger shows it before *and* after a look at the leases that did not find it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{ledger::ServerLedger, lost};
use crate::{
    error::{Error, Result},
    job::{
        keeping::Lines as _,
        model::{EndRequest, Entry, Event, Request, RunId, Totals},
        presence::{Presence, Slot},
    },
    lock::{Deferred, Fence, arrived},
    name::Name,
    store::{Connection, LeaseView, PATIENCE, Resource, StoreUrl},
};

/// How many entries are fetched at once.
const PAGE: usize = 200;

/// How long to listen before looking at the leases again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The jobs of a server.
#[derive(Clone)]
pub(crate) struct ServerJobs {
    connection: Arc<Mutex<Connection>>,
}

/// A job as its server has it.
#[derive(Debug, Clone)]
pub(crate) struct ServerJob {
    pub(crate) job: Name,
    pub(crate) totals: Totals,
    pub(crate) slots: Vec<Slot>,
}

impl ServerJobs {
    /// Connects.
    pub(crate) fn connect(url: &StoreUrl) -> Result<Self> {
        Ok(Self { connection: Arc::new(Mutex::new(Connection::open(url.clone(), PATIENCE)?)) })
    }

    /// The server's time.
    pub(crate) fn now(&self) -> Result<DateTime<Utc>> {
        self.lock().call(|session| session.now())
    }

    /// Every job that has a ledger, in byte order.
    pub(crate) fn all(&self) -> Result<Vec<ServerJob>> {
        let jobs = || self.lock().call(|session| session.jobs());
        let before = jobs()?;
        let leases = self.leases()?;
        let see = |(job, totals): (Name, Totals)| ServerJob { slots: slots(&job, &totals, &leases), job, totals };
        let mut seen: Vec<_> = before.into_iter().map(see).collect();
        if seen.iter().any(ServerJob::has_lost) {
            let mut after = jobs()?.into_iter().collect::<std::collections::BTreeMap<_, _>>();
            for job in &mut seen {
                job.forgive(after.remove(&job.job).unwrap_or_default());
            }
        }
        Ok(seen)
    }

    /// One job; `None` when it has never been asked for.
    pub(crate) fn job(&self, job: &Name) -> Result<Option<ServerJob>> {
        let totals = || self.lock().call(|session| session.ledger(job)).map(|head| head.totals);
        let before = totals()?;
        if before.last_run == 0 {
            return Ok(None);
        }
        let slots = slots(job, &before, &self.leases()?);
        let mut seen = ServerJob { job: job.clone(), totals: before, slots };
        if seen.has_lost() {
            seen.forgive(totals()?);
        }
        Ok(Some(seen))
    }

    /// All leases that are held.
    pub(crate) fn leases(&self) -> Result<Vec<LeaseView>> {
        self.lock().call(|session| session.leases())
    }

    /// The entries of a job's ledger, the newest first.
    pub(crate) fn entries(&self, job: &Name) -> ServerEntries {
        let page = VecDeque::new();
        ServerEntries { jobs: self.clone(), job: job.clone(), page, before: None, is_over: false }
    }

    /// Asks for the end of every run of a job, and waits for it; gives how many that were.
    ///
    /// The wish is in the ledger, which each wrapper looks at once a second, wherever it is. The wrapper keeps its own
    /// grace. When it is gone, its guardian has ended the job or will, and the lease ends by itself; then the end is recorded
    /// here.
    ///
    /// # Errors
    /// `Io` (interrupted) when a signal ended the wait.
    pub(crate) fn stop(&self, job: &Name) -> Result<u32> {
        let ledger = ServerLedger::new(&self.connection, job);
        let mut asked = Vec::new();
        let is_held = |leases: &[LeaseView], fence: Fence| leases.iter().any(|lease| is_of(lease, job, fence));
        let leases = self.leases()?;
        ledger.observe(&mut |totals| {
            let runs = totals.running.iter().filter(|running| is_held(&leases, running.fence));
            asked = runs.map(|running| (running.run, running.slot, running.fence)).collect();
            asked
                .iter()
                .map(|(run, ..)| Event::EndRequested(EndRequest { run: *run, request: Request::Stop }))
                .collect()
        })?;
        let _deferred = Deferred::begin();
        let resource = Resource::Job(job.clone());
        for (run, slot, fence) in &asked {
            while is_held(&self.leases()?, *fence) {
                if arrived().is_some() {
                    let interrupted = std::io::Error::from(std::io::ErrorKind::Interrupted);
                    return Err(Error::io("wait for the end of", job.as_str(), interrupted));
                }
                self.lock().call(|session| session.wait_for_release(&resource, LOOK_AGAIN))?;
            }
            conclude(&ledger, *run, *slot)?;
        }
        Ok(u32::try_from(asked.len()).unwrap_or(u32::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records the end of a run whose lease is over, unless its wrapper has.
fn conclude(ledger: &ServerLedger<'_>, run: RunId, slot: u32) -> Result<()> {
    ledger.observe(&mut |totals| {
        let is_left = totals.in_slot(slot).is_some_and(|running| running.run == run);
        let left = if is_left { lost(totals, slot) } else { None };
        left.map(Event::Ended).into_iter().collect()
    })
}

impl ServerJob {
    /// Whether that run goes on, by its lease; one that began after this look goes on.
    pub(crate) fn runs(&self, run: RunId) -> bool {
        if run.0 > self.totals.last_run {
            return true;
        }
        let is_it = |slot: &Slot| matches!(&slot.presence, Presence::Leased(Some(running), _) if running.run == run);
        self.slots.iter().any(is_it)
    }

    fn has_lost(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.presence, Presence::Lost(_)))
    }

    /// `after`: the sums once the leases were read. A run that they do not show any more has ended meanwhile.
    fn forgive(&mut self, after: Totals) {
        self.slots.retain(|slot| match &slot.presence {
            Presence::Lost(run) => after.running.iter().any(|running| running.run == run.run),
            _ => true,
        });
        self.totals = after;
    }
}

fn is_of(lease: &LeaseView, job: &Name, fence: Fence) -> bool {
    lease.resource == Resource::Job(job.clone()) && lease.held.holder.fence == fence
}

fn slots(job: &Name, totals: &Totals, leases: &[LeaseView]) -> Vec<Slot> {
    let own: Vec<_> = leases.iter().filter(|lease| lease.resource == Resource::Job(job.clone())).collect();
    let running = totals.running.iter().map(|running| {
        let lease = own.iter().find(|lease| lease.held.holder.fence == running.fence);
        let presence = match lease {
            Some(lease) => Presence::Leased(Some(running.clone()), lease.held.holder.clone()),
            None => Presence::Lost(running.clone()),
        };
        Slot { number: running.slot, file: None, presence }
    });
    // A lease a moment before its run is in the ledger, or after.
    let others = own.iter().filter(|lease| !totals.running.iter().any(|run| run.fence == lease.held.holder.fence));
    let others = others.map(|lease| {
        let presence = Presence::Leased(None, lease.held.holder.clone());
        Slot { number: lease.held.slot, file: None, presence }
    });
    let mut slots: Vec<_> = running.chain(others).collect();
    slots.sort_by_key(|slot| slot.number);
    slots
}

/// The entries of a ledger on a server, the newest first, fetched page by page.
pub(crate) struct ServerEntries {
    jobs: ServerJobs,
    job: Name,
    page: VecDeque<(u64, Entry)>,
    before: Option<u64>,
    is_over: bool,
}

impl Iterator for ServerEntries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.page.is_empty() && !self.is_over {
            let page = self.jobs.lock().call(|session| session.entries(&self.job, self.before, PAGE));
            match page {
                Ok(page) => self.page = page.into(),
                Err(e) => {
                    self.is_over = true;
                    return Some(Err(e));
                }
            }
            self.is_over = self.page.len() < PAGE;
        }
        let (number, entry) = self.page.pop_front()?;
        self.before = Some(number);
        Some(Ok(entry))
    }
}

impl std::fmt::Debug for ServerEntries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerEntries").field("job", &self.job).finish_non_exhaustive()
    }
}
