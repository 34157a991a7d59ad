//! Which requests a VM takes in which state, as a queue without I/O.
//!
//! The owner task asks it before it does anything; nothing else decides. Requests are
//! numbered by their owner with a ticket, through which they come back when their turn comes.
//! What they carry, such as a signal, is the owner's business: here they are verbs.
//!
//! | state      | start        | stop         | restart | kill         | set      | delete if stopped | delete     |
//! |------------|--------------|--------------|---------|--------------|----------|-------------------|------------|
//! | stopped    | begins       | already done | begins  | already done | begins   | begins            | begins     |
//! | running    | already done | begins       | begins  | begins       | answered | refused           | begins     |
//! | broken     | refused      | refused      | refused | refused      | refused  | begins            | begins     |
//! | gone       | refused      | refused      | refused | refused      | refused  | refused           | refused    |
//! | creating   | waits        | waits        | waits   | waits        | waits    | refused           | interrupts |
//! | starting   | waits        | interrupts   | waits   | interrupts   | waits    | refused           | interrupts |
//! | restarting | waits        | interrupts   | waits   | interrupts   | waits    | refused           | interrupts |
//! | stopping   | waits        | waits        | waits   | interrupts   | waits    | waits             | waits      |
//! | setting    | waits        | waits        | waits   | waits        | waits    | waits             | waits      |
//! | deleting   | refused      | refused      | refused | refused      | refused  | waits             | waits      |
//!
//! A VM is *stopping* too while it is killed: another kill then cuts the waiting short. It is
//! *setting* while a change is made to a stopped VM.
//!
//! What waits is judged again when its turn comes. A delete turns away whatever waits before
//! it and whatever comes after it, except further deletes, which share its success. A delete
//! that is only for a stopped VM turns nobody away, and does not wait for a boot to end. When the
//! work in a VM cannot be saved, its delete ends where it began, and who waited is judged again; a
//! delete that discards the work cuts the saving short.

use std::collections::VecDeque;

use banger_model::VmState;

/// What can be asked of a VM that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Boot it.
    Start,
    /// Bring it down.
    Stop,
    /// Bring it down if it runs, and boot it.
    Restart,
    /// End its VMM without asking the guest.
    Kill,
    /// Change what it is.
    Set,
    /// Remove every trace of it, unless it runs.
    DeleteStopped,
    /// Remove every trace of it.
    Delete,
}

impl Verb {
    /// Every verb, in the order of the table.
    #[cfg(test)]
    const ALL: [Verb; 7] = [
        Verb::Start,
        Verb::Stop,
        Verb::Restart,
        Verb::Kill,
        Verb::Set,
        Verb::DeleteStopped,
        Verb::Delete,
    ];

    fn deletes(self) -> bool {
        matches!(self, Verb::Delete | Verb::DeleteStopped)
    }
}

/// Where a VM is, as far as requests are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Work is being done, or none is; see [`VmState`].
    Is(VmState),
    /// Being stopped and then started again, as one.
    Restarting,
    /// Stopped, and being changed.
    Setting,
    /// Removed; the owner task is about to end.
    Gone,
}

impl Phase {
    fn is_busy(self) -> bool {
        match self {
            Phase::Is(state) => match state {
                VmState::Creating | VmState::Starting | VmState::Stopping | VmState::Deleting => {
                    true
                }
                VmState::Stopped | VmState::Running | VmState::Broken => false,
            },
            Phase::Restarting | Phase::Setting => true,
            Phase::Gone => false,
        }
    }
}

/// The number by which the owner knows a request.
pub(crate) type Ticket = u64;

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The VM is being deleted.
    Deleting,
    /// The VM is gone.
    Gone,
    /// Its removal failed half-way; it can only be deleted.
    Broken,
    /// It runs or comes up, and is to be deleted only if it does not.
    NotStopped,
    /// Too many requests wait already.
    Busy,
}

/// What is done with a new request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The owner begins it now.
    Begin,
    /// It comes back from [`Queue::settle`].
    Wait,
    /// As [`Verdict::Wait`], and the owner interrupts the work in progress.
    Interrupt,
    /// The VM is there already: a success.
    AlreadyDone,
    /// The owner answers at once, from what the VM is; nothing is done.
    Answer,
    /// It is not taken.
    Refuse(Refusal),
}

/// What becomes of a request that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The owner begins it now.
    Begin(Ticket, Verb),
    /// The VM is there already: a success.
    AlreadyDone(Ticket),
    /// The owner answers at once, from what the VM is.
    Answer(Ticket),
    /// It is not taken any more.
    Refuse(Ticket, Refusal),
}

/// How many requests may wait for one VM.
const WAITING_MAX: usize = 64;

/// The state of one VM and what waits for it.
#[derive(Debug)]
pub(crate) struct Queue {
    phase: Phase,
    waiting: VecDeque<(Ticket, Verb)>,
}

impl Queue {
    /// A queue for a VM in this state.
    pub(crate) fn new(state: VmState) -> Queue {
        Queue {
            phase: Phase::Is(state),
            waiting: VecDeque::new(),
        }
    }

    /// Where the VM is.
    #[cfg(test)]
    fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes a new request, or not. The second list names requests that are turned away
    /// because of it.
    pub(crate) fn submit(
        &mut self,
        ticket: Ticket,
        verb: Verb,
    ) -> (Verdict, Vec<(Ticket, Refusal)>) {
        let mut turned_away = Vec::new();
        if !self.phase.is_busy() {
            let verdict = judge(self.phase, verb);
            if verdict == Verdict::Begin {
                self.phase = working_on(verb, self.phase);
            }
            return (verdict, turned_away);
        }
        let goes = self.phase == Phase::Is(VmState::Deleting) || self.delete_waits();
        if goes && !verb.deletes() {
            return (Verdict::Refuse(Refusal::Deleting), turned_away);
        }
        if !goes && verb == Verb::DeleteStopped && comes_up(self.phase) {
            return (Verdict::Refuse(Refusal::NotStopped), turned_away);
        }
        if verb == Verb::Delete {
            self.waiting.retain(|(waiting, other)| {
                let stays = other.deletes();
                if !stays {
                    turned_away.push((*waiting, Refusal::Deleting));
                }
                stays
            });
        }
        if self.waiting.len() >= WAITING_MAX {
            return (Verdict::Refuse(Refusal::Busy), turned_away);
        }
        self.waiting.push_back((ticket, verb));
        let verdict = if interrupts(verb, self.phase) {
            Verdict::Interrupt
        } else {
            Verdict::Wait
        };
        (verdict, turned_away)
    }

    /// Takes back a request that waits; false when it does not.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
        self.waiting.len() < before
    }

    /// The VM has come to rest in this phase: the work in progress ended, or the guest ended
    /// by itself. Says what becomes of those who waited; at most one begins, and it is last.
    pub(crate) fn settle(&mut self, phase: Phase) -> Vec<Turn> {
        debug_assert!(!phase.is_busy());
        self.phase = phase;
        let mut turns = Vec::new();
        while let Some((ticket, verb)) = self.waiting.pop_front() {
            let verdict = match self.phase {
                // Only deletes can have waited for the end of a delete; they wanted this.
                Phase::Gone if verb.deletes() => Verdict::AlreadyDone,
                phase => judge(phase, verb),
            };
            match verdict {
                Verdict::AlreadyDone => turns.push(Turn::AlreadyDone(ticket)),
                Verdict::Answer => turns.push(Turn::Answer(ticket)),
                Verdict::Refuse(refusal) => turns.push(Turn::Refuse(ticket, refusal)),
                Verdict::Begin | Verdict::Wait | Verdict::Interrupt => {
                    self.phase = working_on(verb, self.phase);
                    turns.push(Turn::Begin(ticket, verb));
                    break;
                }
            }
        }
        turns
    }

    /// Whether work is in progress.
    #[cfg(test)]
    fn is_busy(&self) -> bool {
        self.phase.is_busy()
    }

    fn delete_waits(&self) -> bool {
        self.waiting.iter().any(|(_, verb)| *verb == Verb::Delete)
    }
}

/// Whether the work in progress makes a VM run.
fn comes_up(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Is(VmState::Creating | VmState::Starting) | Phase::Restarting
    )
}

/// Whether the work in progress gives way.
fn interrupts(verb: Verb, phase: Phase) -> bool {
    match verb {
        Verb::Delete => comes_up(phase),
        Verb::Stop => matches!(phase, Phase::Is(VmState::Starting) | Phase::Restarting),
        Verb::Kill => matches!(
            phase,
            Phase::Is(VmState::Starting | VmState::Stopping) | Phase::Restarting
        ),
        Verb::Start | Verb::Restart | Verb::Set | Verb::DeleteStopped => false,
    }
}

/// What a VM at rest does with a request.
fn judge(phase: Phase, verb: Verb) -> Verdict {
    let state = match phase {
        Phase::Is(state) => state,
        Phase::Gone => return Verdict::Refuse(Refusal::Gone),
        // Not at rest; asked about nobody.
        Phase::Restarting | Phase::Setting => return Verdict::Wait,
    };
    match (state, verb) {
        (_, Verb::Delete) => Verdict::Begin,
        (VmState::Running, Verb::DeleteStopped) => Verdict::Refuse(Refusal::NotStopped),
        (_, Verb::DeleteStopped) => Verdict::Begin,
        (VmState::Broken, _) => Verdict::Refuse(Refusal::Broken),
        (VmState::Running, Verb::Set) => Verdict::Answer,
        (VmState::Running, Verb::Start) | (VmState::Stopped, Verb::Stop | Verb::Kill) => {
            Verdict::AlreadyDone
        }
        _ => Verdict::Begin,
    }
}

/// The phase a VM that rests in `from` is in while a request is carried out.
fn working_on(verb: Verb, from: Phase) -> Phase {
    match verb {
        Verb::Start => Phase::Is(VmState::Starting),
        Verb::Stop | Verb::Kill => Phase::Is(VmState::Stopping),
        Verb::Restart if from == Phase::Is(VmState::Stopped) => Phase::Is(VmState::Starting),
        Verb::Restart => Phase::Restarting,
        Verb::Set => Phase::Setting,
        Verb::Delete | Verb::DeleteStopped => Phase::Is(VmState::Deleting),
    }
}

#[cfg(test)]
mod tests;
