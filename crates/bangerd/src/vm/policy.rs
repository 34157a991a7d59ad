//! Which requests a VM takes in which state, as a queue without I/O.
//!
//! The owner task asks it before it does anything; nothing else decides. Requests are
//! numbered by their owner with a ticket, through which they come back when their turn comes.
//!
//! | state     | start        | stop         | delete       |
//! |-----------|--------------|--------------|--------------|
//! | stopped   | begins       | already done | begins       |
//! | running   | already done | begins       | begins       |
//! | broken    | refused      | refused      | begins       |
//! | gone      | refused      | refused      | refused      |
//! | creating  | waits        | waits        | interrupts   |
//! | starting  | waits        | interrupts   | interrupts   |
//! | stopping  | waits        | waits        | waits        |
//! | deleting  | refused      | refused      | waits        |
//!
//! What waits is judged again when its turn comes. A delete turns away whatever waits before
//! it and whatever comes after it, except further deletes, which share its success.

use std::collections::VecDeque;

use banger_model::VmState;

/// What can be asked of a VM that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Boot it.
    Start,
    /// Bring it down.
    Stop,
    /// Remove every trace of it.
    Delete,
}

/// Where a VM is, as far as requests are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Work is being done, or none is; see [`VmState`].
    Is(VmState),
    /// Removed; the owner task is about to end.
    Gone,
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
    /// It is not taken.
    Refuse(Refusal),
}

/// What becomes of a request that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The owner begins it now.
    Begin(Ticket, Request),
    /// The VM is there already: a success.
    AlreadyDone(Ticket),
    /// It is not taken any more.
    Refuse(Ticket, Refusal),
}

/// How many requests may wait for one VM.
const WAITING_MAX: usize = 64;

/// The state of one VM and what waits for it.
#[derive(Debug)]
pub(crate) struct Queue {
    phase: Phase,
    waiting: VecDeque<(Ticket, Request)>,
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
        request: Request,
    ) -> (Verdict, Vec<(Ticket, Refusal)>) {
        let mut turned_away = Vec::new();
        let state = match self.phase {
            Phase::Gone => return (Verdict::Refuse(Refusal::Gone), turned_away),
            Phase::Is(state) => state,
        };
        if !is_busy(state) {
            let verdict = judge(state, request);
            if verdict == Verdict::Begin {
                self.phase = Phase::Is(working_on(request));
            }
            return (verdict, turned_away);
        }
        let goes = state == VmState::Deleting || self.delete_waits();
        if goes && request != Request::Delete {
            return (Verdict::Refuse(Refusal::Deleting), turned_away);
        }
        if request == Request::Delete {
            self.waiting.retain(|(waiting, request)| {
                let stays = *request == Request::Delete;
                if !stays {
                    turned_away.push((*waiting, Refusal::Deleting));
                }
                stays
            });
        }
        if self.waiting.len() >= WAITING_MAX {
            return (Verdict::Refuse(Refusal::Busy), turned_away);
        }
        self.waiting.push_back((ticket, request));
        let verdict = match (state, request) {
            (VmState::Creating | VmState::Starting, Request::Delete)
            | (VmState::Starting, Request::Stop) => Verdict::Interrupt,
            _ => Verdict::Wait,
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
        debug_assert!(!matches!(phase, Phase::Is(state) if is_busy(state)));
        self.phase = phase;
        let mut turns = Vec::new();
        while let Some((ticket, request)) = self.waiting.pop_front() {
            let verdict = match self.phase {
                // Only deletes can have waited for the end of a delete; they wanted this.
                Phase::Gone if request == Request::Delete => Verdict::AlreadyDone,
                Phase::Gone => Verdict::Refuse(Refusal::Gone),
                Phase::Is(state) => judge(state, request),
            };
            match verdict {
                Verdict::AlreadyDone => turns.push(Turn::AlreadyDone(ticket)),
                Verdict::Refuse(refusal) => turns.push(Turn::Refuse(ticket, refusal)),
                Verdict::Begin | Verdict::Wait | Verdict::Interrupt => {
                    self.phase = Phase::Is(working_on(request));
                    turns.push(Turn::Begin(ticket, request));
                    break;
                }
            }
        }
        turns
    }

    /// Whether work is in progress.
    #[cfg(test)]
    fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Is(state) if is_busy(state))
    }

    fn delete_waits(&self) -> bool {
        self.waiting
            .iter()
            .any(|(_, request)| *request == Request::Delete)
    }
}

fn is_busy(state: VmState) -> bool {
    match state {
        VmState::Creating | VmState::Starting | VmState::Stopping | VmState::Deleting => true,
        VmState::Stopped | VmState::Running | VmState::Broken => false,
    }
}

/// What a VM at rest does with a request.
fn judge(state: VmState, request: Request) -> Verdict {
    match (state, request) {
        (_, Request::Delete) => Verdict::Begin,
        (VmState::Broken, _) => Verdict::Refuse(Refusal::Broken),
        (VmState::Running, Request::Start) | (VmState::Stopped, Request::Stop) => {
            Verdict::AlreadyDone
        }
        _ => Verdict::Begin,
    }
}

/// The state a VM is in while a request is carried out.
pub(crate) fn working_on(request: Request) -> VmState {
    match request {
        Request::Start => VmState::Starting,
        Request::Stop => VmState::Stopping,
        Request::Delete => VmState::Deleting,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const STATES: [VmState; 7] = [
        VmState::Creating,
        VmState::Stopped,
        VmState::Starting,
        VmState::Running,
        VmState::Stopping,
        VmState::Deleting,
        VmState::Broken,
    ];

    #[test]
    fn the_table_in_the_documentation_is_true() {
        use Refusal::{Broken, Deleting};
        use Verdict::{AlreadyDone, Begin, Interrupt, Refuse, Wait};
        let table = [
            (VmState::Stopped, [Begin, AlreadyDone, Begin]),
            (VmState::Running, [AlreadyDone, Begin, Begin]),
            (VmState::Broken, [Refuse(Broken), Refuse(Broken), Begin]),
            (VmState::Creating, [Wait, Wait, Interrupt]),
            (VmState::Starting, [Wait, Interrupt, Interrupt]),
            (VmState::Stopping, [Wait, Wait, Wait]),
            (
                VmState::Deleting,
                [Refuse(Deleting), Refuse(Deleting), Wait],
            ),
        ];
        for (state, expected) in table {
            for (request, verdict) in [Request::Start, Request::Stop, Request::Delete]
                .into_iter()
                .zip(expected)
            {
                let (got, _) = Queue::new(state).submit(1, request);
                assert_eq!(got, verdict, "{request:?} while {state}");
            }
        }
    }

    #[test]
    fn a_delete_turns_away_what_waits_and_what_follows() {
        let mut queue = Queue::new(VmState::Stopping);
        assert_eq!(queue.submit(1, Request::Start), (Verdict::Wait, vec![]));
        assert_eq!(
            queue.submit(2, Request::Delete),
            (Verdict::Wait, vec![(1, Refusal::Deleting)])
        );
        assert_eq!(
            queue.submit(3, Request::Start).0,
            Verdict::Refuse(Refusal::Deleting)
        );
        assert_eq!(queue.submit(4, Request::Delete), (Verdict::Wait, vec![]));
        assert_eq!(
            queue.settle(Phase::Is(VmState::Stopped)),
            [Turn::Begin(2, Request::Delete)]
        );
        assert_eq!(queue.settle(Phase::Gone), [Turn::AlreadyDone(4)]);
        assert_eq!(
            queue.submit(5, Request::Delete).0,
            Verdict::Refuse(Refusal::Gone)
        );
    }

    #[test]
    fn a_second_delete_tries_again_when_the_first_failed() {
        let mut queue = Queue::new(VmState::Stopped);
        assert_eq!(queue.submit(1, Request::Delete).0, Verdict::Begin);
        assert_eq!(queue.submit(2, Request::Delete).0, Verdict::Wait);
        assert_eq!(
            queue.settle(Phase::Is(VmState::Broken)),
            [Turn::Begin(2, Request::Delete)]
        );
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Submit(Request),
        Settle(Phase),
        Withdraw(Ticket),
    }

    fn event() -> impl Strategy<Value = Event> {
        let request = prop_oneof![
            3 => Just(Request::Start),
            3 => Just(Request::Stop),
            1 => Just(Request::Delete)
        ];
        let rest = prop_oneof![
            3 => Just(Phase::Is(VmState::Stopped)),
            3 => Just(Phase::Is(VmState::Running)),
            1 => Just(Phase::Is(VmState::Broken)),
            1 => Just(Phase::Gone),
        ];
        prop_oneof![
            4 => request.prop_map(Event::Submit),
            2 => rest.prop_map(Event::Settle),
            1 => (0u64..100).prop_map(Event::Withdraw),
        ]
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fate {
        Open,
        Begun,
        Answered,
    }

    proptest! {
        /// Whatever happens in whatever order: every request is answered exactly once, at most
        /// one is carried out at a time, nothing is carried out on a VM that is gone or, except
        /// a delete, on one that is broken, and nothing but a delete begins after a delete.
        #[test]
        fn every_request_is_answered_once(
            first in proptest::sample::select(&STATES),
            events in proptest::collection::vec(event(), 0..200),
        ) {
            let mut queue = Queue::new(first);
            let mut fates: HashMap<Ticket, Fate> = HashMap::new();
            // What the owner carries out; a busy first state is its initial job.
            let mut running: Option<Option<Ticket>> = is_busy(first).then_some(None);
            let mut next = 0;
            let mut resting = first;
            for event in events {
                match event {
                    Event::Submit(request) => {
                        let ticket = next;
                        next += 1;
                        let was_busy = queue.is_busy();
                        let (verdict, turned_away) = queue.submit(ticket, request);
                        for (other, _) in turned_away {
                            prop_assert_eq!(fates.insert(other, Fate::Answered), Some(Fate::Open));
                        }
                        let fate = match verdict {
                            Verdict::Begin => {
                                prop_assert!(!was_busy && running.is_none());
                                prop_assert!(resting != VmState::Broken || request == Request::Delete);
                                running = Some(Some(ticket));
                                Fate::Begun
                            }
                            Verdict::Wait | Verdict::Interrupt => {
                                prop_assert!(was_busy);
                                Fate::Open
                            }
                            Verdict::AlreadyDone | Verdict::Refuse(_) => Fate::Answered,
                        };
                        prop_assert_eq!(fates.insert(ticket, fate), None);
                    }
                    Event::Settle(phase) => {
                        // A guest ends by itself only while nothing is done to its VM.
                        if running.is_none() && (queue.is_busy() || phase == Phase::Gone
                            || queue.phase() == Phase::Gone) {
                            continue;
                        }
                        if let Some(Some(ticket)) = running.take() {
                            prop_assert_eq!(fates.insert(ticket, Fate::Answered), Some(Fate::Begun));
                        }
                        if let Phase::Is(state) = phase {
                            resting = state;
                        }
                        for turn in queue.settle(phase) {
                            prop_assert!(running.is_none(), "what begins is last");
                            match turn {
                                Turn::Begin(ticket, request) => {
                                    prop_assert_ne!(phase, Phase::Gone);
                                    prop_assert!(resting != VmState::Broken || request == Request::Delete);
                                    prop_assert_eq!(fates.insert(ticket, Fate::Begun), Some(Fate::Open));
                                    running = Some(Some(ticket));
                                }
                                Turn::AlreadyDone(ticket) | Turn::Refuse(ticket, _) => {
                                    prop_assert_eq!(fates.insert(ticket, Fate::Answered), Some(Fate::Open));
                                }
                            }
                        }
                        prop_assert_eq!(queue.is_busy(), running.is_some());
                    }
                    Event::Withdraw(ticket) => {
                        let waits = fates.get(&ticket) == Some(&Fate::Open);
                        prop_assert_eq!(queue.withdraw(ticket), waits);
                        if waits {
                            fates.insert(ticket, Fate::Answered);
                        }
                    }
                }
            }
            // At the end, everything that is left is answered when the VM goes.
            if queue.phase() != Phase::Gone {
                if let Some(Some(ticket)) = running {
                    fates.insert(ticket, Fate::Answered);
                }
                for turn in queue.settle(Phase::Gone) {
                    match turn {
                        Turn::Begin(..) => prop_assert!(false, "began on a VM that is gone"),
                        Turn::AlreadyDone(ticket) | Turn::Refuse(ticket, _) => {
                            prop_assert_eq!(fates.insert(ticket, Fate::Answered), Some(Fate::Open));
                        }
                    }
                }
            }
            prop_assert!(fates.values().all(|fate| *fate == Fate::Answered), "{:?}", fates);
        }

        #[test]
        fn waiting_is_bounded(requests in 0usize..200) {
            let mut queue = Queue::new(VmState::Stopping);
            for ticket in 0..requests as u64 {
                let (verdict, _) = queue.submit(ticket, Request::Start);
                let room = (ticket as usize) < WAITING_MAX;
                prop_assert_eq!(verdict == Verdict::Wait, room);
                prop_assert_eq!(verdict == Verdict::Refuse(Refusal::Busy), !room);
            }
        }
    }
}
