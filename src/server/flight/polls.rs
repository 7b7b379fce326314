//! Plans that take long: the client asks again with the descriptor it was given, and nothing waits
//! on its connection. Planning goes on meanwhile, and ends if nobody asks.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::sql::Any;
use arrow_flight::{FlightDescriptor, FlightInfo, PollInfo};
use prost::Message;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use uuid::Uuid;

use super::handles::{Handle, Purpose, Store, StoreLimits, Weight};
use crate::access::{Access, Principal};
use crate::error::{Error, Result};

/// How long one call waits before it tells its client to ask again.
const WAIT_MAX: Duration = Duration::from_millis(500);
const LIFE_MICROS: i64 = 60 * 1_000_000;
const LIMITS: StoreLimits = StoreLimits {
    count_max: 256,
    count_per_user_max: 64,
    bytes_max: 256 * POLL_BYTES,
    bytes_per_user_max: 64 * POLL_BYTES,
    life_micros: LIFE_MICROS,
    age_micros_max: i64::MAX,
    gives_way_micros: i64::MAX,
};
const POLL_BYTES: usize = 65_536;
const TYPE_URL: &str = "type.googleapis.com/flowguard.Poll";

/// Plans under way, each for the user who asked.
pub struct Polls {
    access: Access,
    store: Store<Poll>,
    wait_max: Duration,
}

type Outcome = Result<FlightInfo, Status>;

#[derive(Clone)]
struct Poll {
    outcome: watch::Receiver<Option<Outcome>>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Polls {
    pub fn new(access: Access) -> Self {
        Self { access, store: Store::new(Purpose::Poll, LIMITS), wait_max: WAIT_MAX }
    }

    /// Starts `planning`, and answers with its outcome if that comes soon.
    pub async fn start(
        &self,
        caller: &Principal,
        planning: impl Future<Output = Outcome> + Send + 'static,
        now: i64,
    ) -> Result<PollInfo, Status> {
        let (sender, outcome) = watch::channel(None);
        let task = tokio::spawn(async move {
            let outcome = planning.await;
            // Nobody may be left to hear it.
            let _ = sender.send(Some(outcome));
        });
        let poll = Poll { outcome, _task: Arc::new(AbortOnDropHandle::new(task)) };
        if let Some(outcome) = poll.within(self.wait_max).await? {
            return outcome.map(complete);
        }
        let id = self.store.insert(&caller.user, poll, Weight::of(POLL_BYTES), now)?;
        Ok(self.pending(caller, id, now))
    }

    /// Asks again for what `sealed` stands for.
    pub async fn again(
        &self,
        caller: &Principal,
        sealed: &[u8],
        now: i64,
    ) -> Result<PollInfo, Status> {
        let handle = Handle::unseal(&self.access, Purpose::Poll, sealed, &caller.user, now)?;
        let poll = self.store.get(handle.id, &caller.user, now)?;
        match poll.within(self.wait_max).await? {
            // Kept for a client that did not get this answer.
            Some(outcome) => {
                self.store.set_done(handle.id);
                outcome.map(complete)
            }
            None => Ok(self.pending(caller, handle.id, now)),
        }
    }

    /// Ends the planning that `sealed` stands for.
    pub fn cancel(&self, caller: &Principal, sealed: &[u8], now: i64) -> Result<()> {
        let handle = Handle::unseal(&self.access, Purpose::Poll, sealed, &caller.user, now)?;
        self.store.get(handle.id, &caller.user, now)?;
        self.store.remove(handle.id, &caller.user);
        Ok(())
    }

    pub fn sweep(&self, now: i64) {
        self.store.sweep(now);
    }

    /// No schema and no endpoint yet, and where to ask again.
    fn pending(&self, caller: &Principal, id: Uuid, now: i64) -> PollInfo {
        let handle = Handle { id, part: 0, expires: now.saturating_add(LIFE_MICROS) };
        let sealed = handle.seal(&self.access, Purpose::Poll, &caller.user);
        let command = Any { type_url: TYPE_URL.to_owned(), value: sealed.into() };
        let descriptor = FlightDescriptor::new_cmd(command.encode_to_vec());
        let info = FlightInfo::new().with_descriptor(descriptor.clone());
        PollInfo::new().with_info(info).with_descriptor(descriptor)
    }
}

/// What a descriptor that was given out here stands for.
pub fn sealed_in(command: &Any) -> Option<&[u8]> {
    (command.type_url == TYPE_URL).then_some(&*command.value)
}

fn complete(info: FlightInfo) -> PollInfo {
    PollInfo { progress: Some(1.0), ..PollInfo::new().with_info(info) }
}

impl Poll {
    async fn within(&self, wait_max: Duration) -> Result<Option<Outcome>> {
        let mut receiver = self.outcome.clone();
        match tokio::time::timeout(wait_max, receiver.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => Ok(outcome.clone()),
            Ok(Err(_)) => Err(Error::internal("planning ended abnormally")),
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;
    use tonic::Code;

    fn caller() -> Principal {
        Principal::local()
    }

    fn polls() -> Polls {
        Polls { wait_max: Duration::from_millis(1), ..Polls::new(Access::open()) }
    }

    fn sealed(poll: &PollInfo) -> Vec<u8> {
        let descriptor = poll.flight_descriptor.as_ref().unwrap();
        let command = Any::decode(&*descriptor.cmd).unwrap();
        sealed_in(&command).unwrap().to_vec()
    }

    #[tokio::test]
    async fn a_slow_plan_is_asked_for_again_until_it_is_there() {
        let polls = polls();
        let (release, released) = oneshot::channel::<()>();
        let info = FlightInfo::new().with_total_records(7);
        let planned = info.clone();
        let planning = async move {
            released.await.unwrap();
            Ok(planned)
        };
        let first = polls.start(&caller(), planning, 0).await.unwrap();
        assert_eq!(first.progress, None);
        assert_eq!(first.info.as_ref().unwrap().endpoint, []);
        let second = polls.again(&caller(), &sealed(&first), 1).await.unwrap();
        release.send(()).unwrap();
        let mut last = polls.again(&caller(), &sealed(&second), 2).await.unwrap();
        while last.flight_descriptor.is_some() {
            last = polls.again(&caller(), &sealed(&last), 2).await.unwrap();
        }
        let whole = PollInfo { progress: Some(1.0), ..PollInfo::new().with_info(info) };
        assert_eq!(last, whole);
        let repeated = polls.again(&caller(), &sealed(&second), 3).await.unwrap();
        assert_eq!(repeated, whole);
    }

    #[tokio::test]
    async fn a_cancelled_plan_ends_and_is_unknown() {
        let polls = polls();
        let (mut alive, ended) = oneshot::channel::<()>();
        let planning = async move {
            let _ended = ended;
            std::future::pending().await
        };
        let poll = polls.start(&caller(), planning, 0).await.unwrap();
        polls.cancel(&caller(), &sealed(&poll), 1).unwrap();
        alive.closed().await;
        let status = polls.again(&caller(), &sealed(&poll), 2).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }

    #[tokio::test]
    async fn a_plan_that_fails_fails_the_call() {
        let polls = Polls::new(Access::open());
        let planning = async { Err(Status::invalid_argument("no")) };
        let status = polls.start(&caller(), planning, 0).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "no"));
    }
}
