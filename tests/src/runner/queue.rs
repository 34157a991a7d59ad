//! Which scenario may begin now.

use std::collections::VecDeque;

use crate::scenario::{Class, Scenario};

/// What a worker does next.
pub(super) enum Next {
    /// Runs this one.
    Run(Scenario),
    /// Waits until another has ended.
    Wait,
    /// Ends: there is nothing left.
    Done,
}

/// Scenarios that have not begun, and what the ones that run keep others from.
pub(super) struct Queue {
    waiting: VecDeque<Scenario>,
    running: usize,
    sharing: bool,
    alone: bool,
}

impl Queue {
    /// In this order, but those that take turns first, so that the others fill the gaps, and
    /// those that run alone last, so that they stop nobody.
    pub(super) fn new(mut scenarios: Vec<Scenario>) -> Queue {
        scenarios.sort_by_key(|scenario| match scenario.class {
            Class::SharedRepo => 0,
            Class::Pure => 1,
            Class::Global => 2,
        });
        Queue {
            waiting: scenarios.into(),
            running: 0,
            sharing: false,
            alone: false,
        }
    }

    /// The next that may begin.
    pub(super) fn next(&mut self) -> Next {
        if self.waiting.is_empty() {
            return Next::Done;
        }
        let may = |scenario: &Scenario| match scenario.class {
            Class::Pure => !self.alone,
            Class::SharedRepo => !self.alone && !self.sharing,
            Class::Global => self.running == 0,
        };
        let Some(scenario) = self
            .waiting
            .iter()
            .position(may)
            .and_then(|index| self.waiting.remove(index))
        else {
            return Next::Wait;
        };
        self.running += 1;
        self.sharing |= scenario.class == Class::SharedRepo;
        self.alone |= scenario.class == Class::Global;
        Next::Run(scenario)
    }

    /// One has ended.
    pub(super) fn ended(&mut self, class: Class) {
        self.running -= 1;
        match class {
            Class::Pure => {}
            Class::SharedRepo => self.sharing = false,
            Class::Global => self.alone = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{global, pure, shared};

    fn begun(queue: &mut Queue) -> Option<&'static str> {
        match queue.next() {
            Next::Run(scenario) => Some(scenario.name),
            Next::Wait => None,
            Next::Done => Some("done"),
        }
    }

    #[test]
    fn classes_keep_out_of_each_others_way() {
        let mut queue = Queue::new(vec![
            global("alone", "", |_| {}),
            shared("shared", "", |_| {}),
            shared("shared-too", "", |_| {}),
            pure("free", "", |_| {}),
        ]);
        assert_eq!(begun(&mut queue), Some("shared"));
        assert_eq!(begun(&mut queue), Some("free"), "it overtakes");
        assert_eq!(begun(&mut queue), None);
        queue.ended(Class::SharedRepo);
        assert_eq!(begun(&mut queue), Some("shared-too"));
        queue.ended(Class::Pure);
        assert_eq!(begun(&mut queue), None, "not alone yet");
        queue.ended(Class::SharedRepo);
        assert_eq!(begun(&mut queue), Some("alone"));
        assert_eq!(begun(&mut queue), Some("done"));
    }

    #[test]
    fn nothing_begins_beside_one_that_runs_alone() {
        let mut queue = Queue::new(vec![
            global("alone", "", |_| {}),
            global("alone-too", "", |_| {}),
        ]);
        assert_eq!(begun(&mut queue), Some("alone"));
        assert_eq!(begun(&mut queue), None);
        queue.ended(Class::Global);
        assert_eq!(begun(&mut queue), Some("alone-too"));
    }
}
