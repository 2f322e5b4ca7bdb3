//! A process that is stopped while time goes on (SIGSTOP, a machine that suspends), for rehearsals: its tasks are not polled.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Stops all parts of one worker together.
#[derive(Debug, Default)]
pub struct Hold {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    is_held: bool,
    waiting: Vec<Waker>,
}

impl Hold {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on no part is polled.
    pub fn stop(&self) {
        self.held().is_held = true;
    }

    /// Everything goes on.
    pub fn go_on(&self) {
        let waiting = {
            let mut held = self.held();
            held.is_held = false;
            std::mem::take(&mut held.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether they are stopped now.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.held().is_held
    }

    fn is_held(&self, context: &Context<'_>) -> bool {
        let mut held = self.held();
        if held.is_held && !held.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            held.waiting.push(context.waker().clone());
        }
        held.is_held
    }
}

/// A part that can be held; as it is where nobody does.
pub(crate) fn held<F: Future + Send + 'static>(
    hold: Option<&Arc<Hold>>,
    part: F,
) -> Pin<Box<dyn Future<Output = F::Output> + Send>> {
    let mut part = Box::pin(part);
    let Some(hold) = hold.cloned() else { return part };
    Box::pin(poll_fn(move |context| match hold.is_held(context) {
        true => Poll::Pending,
        false => part.as_mut().poll(context),
    }))
}
