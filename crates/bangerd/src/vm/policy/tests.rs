//! The policy, by its table and by whatever order of events.

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

fn phase_of(word: &str) -> Phase {
    match word {
        "gone" => Phase::Gone,
        "restarting" => Phase::Restarting,
        "setting" => Phase::Setting,
        word => Phase::Is(
            *STATES
                .iter()
                .find(|state| state.to_string() == word)
                .unwrap_or_else(|| panic!("{word} is no state")),
        ),
    }
}

fn word_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Begin => "begins",
        Verdict::Wait => "waits",
        Verdict::Interrupt => "interrupts",
        Verdict::AlreadyDone => "already done",
        Verdict::Answer => "answered",
        Verdict::Refuse(_) => "refused",
    }
}

#[test]
fn the_table_in_the_documentation_is_true() {
    let rows: Vec<Vec<&str>> = include_str!("../policy.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! |"))
        .map(|line| {
            line.trim_end_matches('|')
                .split('|')
                .map(str::trim)
                .collect()
        })
        .collect();
    // Below the head and its rule.
    let phases = &rows[2..];
    assert_eq!(phases.len(), STATES.len() + 3);
    for row in phases {
        assert_eq!(row.len(), 1 + Verb::ALL.len(), "{row:?}");
        for (verb, word) in Verb::ALL.into_iter().zip(&row[1..]) {
            let mut queue = Queue::new(VmState::Stopped);
            queue.phase = phase_of(row[0]);
            let (got, _) = queue.submit(1, verb);
            assert_eq!(word_of(got), *word, "{verb:?} while {}", row[0]);
        }
    }
}

#[test]
fn a_delete_for_stopped_vms_never_takes_a_running_one() {
    let mut queue = Queue::new(VmState::Stopping);
    assert_eq!(queue.submit(1, Verb::Start), (Verdict::Wait, vec![]));
    // It waits for the end of the stop, turns nobody away, and finds the VM running.
    assert_eq!(
        queue.submit(2, Verb::DeleteStopped),
        (Verdict::Wait, vec![])
    );
    assert_eq!(queue.submit(3, Verb::Stop), (Verdict::Wait, vec![]));
    assert_eq!(
        queue.settle(Phase::Is(VmState::Stopped)),
        [Turn::Begin(1, Verb::Start)]
    );
    assert_eq!(
        queue.settle(Phase::Is(VmState::Running)),
        [
            Turn::Refuse(2, Refusal::NotStopped),
            Turn::Begin(3, Verb::Stop)
        ]
    );
}

#[test]
fn a_restart_that_is_interrupted_by_a_stop_ends_stopped() {
    let mut queue = Queue::new(VmState::Running);
    assert_eq!(queue.submit(1, Verb::Restart).0, Verdict::Begin);
    assert_eq!(queue.phase(), Phase::Restarting);
    assert_eq!(queue.submit(2, Verb::Stop).0, Verdict::Interrupt);
    assert_eq!(
        queue.settle(Phase::Is(VmState::Stopped)),
        [Turn::AlreadyDone(2)]
    );
}

#[test]
fn a_delete_turns_away_what_waits_and_what_follows() {
    let mut queue = Queue::new(VmState::Stopping);
    assert_eq!(queue.submit(1, Verb::Start), (Verdict::Wait, vec![]));
    assert_eq!(
        queue.submit(2, Verb::Delete),
        (Verdict::Wait, vec![(1, Refusal::Deleting)])
    );
    assert_eq!(
        queue.submit(3, Verb::Start).0,
        Verdict::Refuse(Refusal::Deleting)
    );
    assert_eq!(queue.submit(4, Verb::Delete), (Verdict::Wait, vec![]));
    assert_eq!(
        queue.settle(Phase::Is(VmState::Stopped)),
        [Turn::Begin(2, Verb::Delete)]
    );
    assert_eq!(queue.settle(Phase::Gone), [Turn::AlreadyDone(4)]);
    assert_eq!(
        queue.submit(5, Verb::Delete).0,
        Verdict::Refuse(Refusal::Gone)
    );
}

#[test]
fn a_second_delete_tries_again_when_the_first_failed() {
    let mut queue = Queue::new(VmState::Stopped);
    assert_eq!(queue.submit(1, Verb::Delete).0, Verdict::Begin);
    assert_eq!(queue.submit(2, Verb::Delete).0, Verdict::Wait);
    assert_eq!(
        queue.settle(Phase::Is(VmState::Broken)),
        [Turn::Begin(2, Verb::Delete)]
    );
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Submit(Verb),
    Settle(Phase),
    Withdraw(Ticket),
}

fn event() -> impl Strategy<Value = Event> {
    let request = prop_oneof![
        3 => Just(Verb::Start),
        3 => Just(Verb::Stop),
        2 => Just(Verb::Restart),
        2 => Just(Verb::Kill),
        2 => Just(Verb::Set),
        1 => Just(Verb::DeleteStopped),
        1 => Just(Verb::Delete)
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
    /// a delete, on one that is broken, nothing but a delete begins after a delete, and a delete
    /// for stopped VMs never begins on a running one.
    #[test]
    fn every_request_is_answered_once(
        first in proptest::sample::select(&STATES),
        events in proptest::collection::vec(event(), 0..200),
    ) {
        let mut queue = Queue::new(first);
        let mut fates: HashMap<Ticket, Fate> = HashMap::new();
        // What the owner carries out; a busy first state is its initial job.
        let mut running: Option<Option<Ticket>> = Phase::Is(first).is_busy().then_some(None);
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
                            prop_assert!(
                                resting != VmState::Running || request != Verb::DeleteStopped
                            );
                            prop_assert!(resting != VmState::Broken || request.deletes());
                            running = Some(Some(ticket));
                            Fate::Begun
                        }
                        Verdict::Wait | Verdict::Interrupt => {
                            prop_assert!(was_busy);
                            Fate::Open
                        }
                        Verdict::AlreadyDone | Verdict::Answer | Verdict::Refuse(_) => {
                            Fate::Answered
                        },
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
                                prop_assert!(
                                    resting != VmState::Running || request != Verb::DeleteStopped
                                );
                                prop_assert!(resting != VmState::Broken || request.deletes());
                                prop_assert_eq!(fates.insert(ticket, Fate::Begun), Some(Fate::Open));
                                running = Some(Some(ticket));
                            }
                            Turn::AlreadyDone(ticket)
                            | Turn::Answer(ticket)
                            | Turn::Refuse(ticket, _) => {
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
                    Turn::AlreadyDone(ticket)
                            | Turn::Answer(ticket)
                            | Turn::Refuse(ticket, _) => {
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
            let (verdict, _) = queue.submit(ticket, Verb::Start);
            let room = (ticket as usize) < WAITING_MAX;
            prop_assert_eq!(verdict == Verdict::Wait, room);
            prop_assert_eq!(verdict == Verdict::Refuse(Refusal::Busy), !room);
        }
    }
}
