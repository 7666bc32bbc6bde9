//! What a miner says and when, against the request's deadlines, by the validator's own clock.
//!
//! Before the first token nothing is owed: whatever goes wrong is silence, or a refusal. From then
//! on a commitment is owed, and after a challenge a proof; late, absent, malformed or broken off is
//! the miner's failure. What a message says is judged elsewhere.
//!
//! Whoever listens notes with each message that comes in time since when it waits for the next one, so
//! that its own standstill excuses only what was due meanwhile.

use std::time::Duration;

use assay_audit::keys::Signature;
use assay_audit::request::{Deadlines, Request};
use assay_audit::session::{Answer, Omission, SignedBytes};
use assay_commitments::{SessionId, TokenId};
use assay_proto::chunks::Assembly;
use assay_proto::v1::Resume;
use assay_proto::v1::validator_message::Message as ToMiner;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::stall::Since;
use crate::wire::{Dial, Event, Fault, Wire};

/// For how long after its deadline a message is still waited for, only to call it late and not
/// absent.
const LATENESS: Duration = Duration::from_secs(1);
/// The first pause before a broken connection is taken up again; it doubles up to the second.
const RESUME_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why nothing was streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// No connection, or it broke before the first token.
    Unreachable,
    /// No token came in time.
    NoToken,
    /// Something else came in its place.
    Disorder,
}

/// How a miner took a request.
pub(crate) enum Opening {
    Silent(Silence),
    Refused(SignedBytes),
    Streaming(Box<Stream>),
}

/// A stream after its last token.
pub(crate) struct Stream {
    pub(crate) wire: Wire,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) first_token: Instant,
    pub(crate) last_token: Instant,
    pub(crate) commitment: Result<Commitment, Omission>,
}

/// A commitment as it came.
pub(crate) struct Commitment {
    pub(crate) signed: SignedBytes,
    pub(crate) at: Instant,
}

fn ms(milliseconds: u32) -> Duration {
    Duration::from_millis(u64::from(milliseconds))
}

/// Sends a request and follows the stream up to the commitment. No answer has more than `most_tokens`, and none takes
/// longer than its deadline, however the tokens are spread over it.
pub(crate) async fn ask(
    dial: &impl Dial,
    request: &Request,
    most_tokens: usize,
    opening: ToMiner,
    since: &mut Since,
) -> Opening {
    let answer_due = Instant::now() + ms(request.deadlines.answer_ms);
    let due = answer_due.min(Instant::now() + ms(request.deadlines.first_token_ms));
    let mut wire = match timeout_at(due, dial.open(opening)).await {
        Ok(Ok(wire)) => wire,
        Ok(Err(Fault::Violation)) => return Opening::Silent(Silence::Disorder),
        Ok(Err(Fault::Broken | Fault::Unknown)) | Err(_) => return Opening::Silent(Silence::Unreachable),
    };
    let first = match timeout_at(due, wire.next()).await {
        Ok(Ok(Event::Tokens(tokens))) if !tokens.is_empty() => tokens,
        Ok(Ok(Event::Refusal(refusal))) => return Opening::Refused(refusal),
        Ok(Ok(Event::Tokens(_) | Event::Commitment(_) | Event::Proof(_)) | Err(Fault::Violation)) => {
            return Opening::Silent(Silence::Disorder);
        }
        Ok(Err(Fault::Broken | Fault::Unknown)) => return Opening::Silent(Silence::Unreachable),
        Err(_) => return Opening::Silent(Silence::NoToken),
    };
    let first_token = Instant::now();
    *since = Since::now();
    let mut answer = Answering { tokens: Vec::new(), most_tokens, last_token: first_token, due: answer_due };
    let commitment = match answer.take(&first) {
        Ok(()) => follow(&mut wire, &request.deadlines, &mut answer, since).await,
        Err(omission) => Err(omission),
    };
    let Answering { tokens, last_token, .. } = answer;
    Opening::Streaming(Box::new(Stream { wire, tokens, first_token, last_token, commitment }))
}

/// An answer as far as it has come.
struct Answering {
    tokens: Vec<TokenId>,
    most_tokens: usize,
    last_token: Instant,
    /// The deadline of all of it.
    due: Instant,
}

impl Answering {
    /// Notes tokens, as many as an answer can have; none at all, or more, is against the protocol.
    fn take(&mut self, more: &[TokenId]) -> Result<(), Omission> {
        let room = self.most_tokens - self.tokens.len();
        self.tokens.extend(more.iter().take(room));
        if more.is_empty() || more.len() > room { Err(Omission::Violation) } else { Ok(()) }
    }

    /// By when something is due that is due so long after the last token.
    fn due_after(&self, step_ms: u32) -> Instant {
        self.due.min(self.last_token + ms(step_ms))
    }
}

/// Tokens and then the commitment.
async fn follow(
    wire: &mut Wire,
    deadlines: &Deadlines,
    answer: &mut Answering,
    since: &mut Since,
) -> Result<Commitment, Omission> {
    let Deadlines { token_ms, commitment_ms, .. } = *deadlines;
    loop {
        // Whether another token or the commitment is due, nobody knows yet.
        let due = answer.due_after(token_ms.max(commitment_ms));
        let event = timeout_at(due + LATENESS, wire.next()).await.map_err(|_| Omission::Absent)?;
        let at = Instant::now();
        match event {
            Ok(Event::Tokens(more)) => {
                answer.take(&more)?;
                let due = answer.due_after(token_ms);
                if at > due + since.still() {
                    return Err(Omission::Late);
                }
                answer.last_token = at;
                if at <= due {
                    *since = Since::now();
                }
            }
            Ok(Event::Commitment(signed)) => {
                let late = at > answer.due_after(commitment_ms) + since.still();
                return if late { Err(Omission::Late) } else { Ok(Commitment { signed, at }) };
            }
            Ok(Event::Refusal(_) | Event::Proof(_)) | Err(Fault::Violation) => return Err(Omission::Violation),
            Err(Fault::Broken | Fault::Unknown) => return Err(Omission::Broken),
        }
    }
}

/// A challenge that has been decided on.
pub(crate) struct Demand {
    pub(crate) session: SessionId,
    pub(crate) challenge: ToMiner,
    pub(crate) proof_bytes: usize,
    pub(crate) due: Instant,
}

/// Sends a challenge and takes the answer, on this stream or, after a break, on others, until the
/// deadline.
pub(crate) async fn demand(wire: &mut Wire, dial: &impl Dial, demand: &Demand, since: &mut Since) -> Answer {
    let mut pause = RESUME_PAUSE.0;
    let mut ended = challenge(wire, demand, since).await;
    loop {
        match ended {
            Ok(answer) => return answer,
            Err(Fault::Violation) => return Answer::Omitted(Omission::Violation),
            // The miner says itself that it has nothing to show.
            Err(Fault::Unknown) => return Answer::Omitted(Omission::Absent),
            Err(Fault::Broken) => {}
        }
        if Instant::now() + pause >= demand.due {
            sleep_until(demand.due).await;
            return Answer::Omitted(Omission::Broken);
        }
        sleep(pause).await;
        pause = (pause * 2).min(RESUME_PAUSE.1);
        let resume = ToMiner::Resume(Resume { session: demand.session.as_bytes().to_vec() });
        ended = match timeout_at(demand.due, dial.open(resume)).await {
            Ok(Ok(resumed)) => {
                *wire = resumed;
                challenge(wire, demand, since).await
            }
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(Fault::Broken),
        };
    }
}

/// One attempt: the challenge, then pieces of a proof from the first to the last.
async fn challenge(wire: &mut Wire, demand: &Demand, since: &mut Since) -> Result<Answer, Fault> {
    wire.send(demand.challenge.clone()).await?;
    let mut assembly = Assembly::new(demand.proof_bytes);
    loop {
        let Ok(event) = timeout_at(demand.due + LATENESS, wire.next()).await else {
            return Ok(Answer::Omitted(Omission::Absent));
        };
        let at = Instant::now();
        let late = at > demand.due + since.still();
        match event? {
            Event::Proof(chunk) => {
                if let Some(whole) = assembly.push_proof(&chunk).map_err(|_| Fault::Violation)? {
                    let proof = SignedBytes { bytes: whole.bytes, signature: Signature(whole.signature) };
                    return Ok(if late { Answer::Omitted(Omission::Late) } else { Answer::Proof(proof) });
                }
            }
            Event::Refusal(refusal) => {
                return Ok(if late { Answer::Omitted(Omission::Late) } else { Answer::Refusal(refusal) });
            }
            Event::Tokens(_) | Event::Commitment(_) => return Err(Fault::Violation),
        }
        if at <= demand.due {
            *since = Since::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use assay_audit::policy::Policy;
    use assay_audit::prompt::Prompt;
    use assay_audit::request::{AuditRate, Network};
    use assay_audit::sampling::Sampling;
    use assay_commitments::{Epoch, Hotkey, ManifestId};
    use assay_proto::chunks::CHUNK_BYTES;
    use assay_proto::v1::miner_message::Message as FromMiner;
    use assay_proto::v1::validator_message::Message;
    use assay_proto::v1::{Challenge, MinerMessage, ProofChunk, Signed, Tokens, ValidatorMessage};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::stall::tests::PRETENDED;

    const DEADLINES: Deadlines = Deadlines {
        first_token_ms: 5_000,
        token_ms: 500,
        commitment_ms: 2_000,
        answer_ms: 8_000,
        settle_ms: 1_000,
        proof_ms: 10_000,
    };

    /// What a scripted miner does on one stream: waits, sends, and at the end hangs up or hangs on.
    #[derive(Clone)]
    enum Act {
        Wait(u64),
        Say(FromMiner),
        Fail(Fault),
        /// The validator stands still for so many milliseconds meanwhile.
        Freeze(u64),
        Hang,
    }

    /// A miner that plays one script a stream, and notes what each stream was opened with.
    struct Scripted {
        scripts: Mutex<Vec<Vec<Act>>>,
        opened: Mutex<Vec<Message>>,
    }

    impl Scripted {
        fn new(mut scripts: Vec<Vec<Act>>) -> Self {
            scripts.reverse();
            Self { scripts: Mutex::new(scripts), opened: Mutex::default() }
        }
    }

    impl Dial for Scripted {
        async fn open(&self, first: Message) -> Result<Wire, Fault> {
            self.opened.lock().unwrap().push(first);
            let script = self.scripts.lock().unwrap().pop().ok_or(Fault::Broken)?;
            let (outbound, mut heard) = mpsc::channel::<ValidatorMessage>(8);
            let (say, messages) = mpsc::channel(8);
            tokio::spawn(async move {
                for act in script {
                    match act {
                        Act::Wait(milliseconds) => sleep(Duration::from_millis(milliseconds)).await,
                        Act::Say(message) => say.send(Ok(MinerMessage { message: Some(message) })).await.unwrap(),
                        Act::Fail(fault) => say.send(Err(fault)).await.unwrap(),
                        Act::Freeze(milliseconds) => {
                            PRETENDED.set(PRETENDED.get() + Duration::from_millis(milliseconds));
                        }
                        Act::Hang => while heard.recv().await.is_some() {},
                    }
                }
            });
            Ok(Wire::new(outbound, ReceiverStream::new(messages)))
        }
    }

    fn tokens(count: usize) -> Act {
        Act::Say(FromMiner::Tokens(Tokens { ids: vec![3; count] }))
    }

    fn signed() -> Signed {
        Signed { body: vec![1], signature: vec![2; 64] }
    }

    fn commitment() -> Act {
        Act::Say(FromMiner::Commitment(signed()))
    }

    fn refusal() -> Act {
        Act::Say(FromMiner::Refusal(signed()))
    }

    fn piece(data: usize, last: bool) -> Act {
        let signature = if last { vec![2; 64] } else { Vec::new() };
        Act::Say(FromMiner::Proof(ProofChunk { data: vec![1; data], signature }))
    }

    fn request() -> Request {
        Request {
            network: Network { genesis: [0; 32], netuid: 1 },
            validator: Hotkey::new([1; 32]),
            miner: Hotkey::new([2; 32]),
            epoch: Epoch::new(0),
            manifest: ManifestId::new([3; 32]),
            prompt: Prompt::Text("hello".to_owned()),
            sampling: Sampling::GREEDY,
            max_tokens: 4,
            stop: Vec::new(),
            policy: Policy::DEFAULT,
            audit_rate: AuditRate::Always,
            deadlines: DEADLINES,
            counter: 0,
            nonce_commitment: Some([0; 32]),
        }
    }

    fn opening() -> Message {
        Message::Request(signed())
    }

    /// Plays a script; says how many tokens came, and whether the commitment did.
    async fn check_stream(script: Vec<Act>, expected: Result<usize, Omission>) {
        let miner = Scripted::new(vec![script]);
        let Opening::Streaming(stream) = ask(&miner, &request(), 4, opening(), &mut Since::now()).await else {
            panic!("nothing was streamed")
        };
        let count = stream.tokens.len();
        assert_eq!(stream.commitment.map(|_| count), expected);
    }

    async fn check_silence(script: Vec<Act>, expected: Silence) {
        let miner = Scripted::new(vec![script]);
        let Opening::Silent(silence) = ask(&miner, &request(), 4, opening(), &mut Since::now()).await else {
            panic!("not silent")
        };
        assert_eq!(silence, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_and_a_commitment_in_time_are_taken() {
        check_stream(
            vec![Act::Wait(4_999), tokens(1), Act::Wait(499), tokens(3), Act::Wait(1_999), commitment()],
            Ok(4),
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_owed_before_the_first_token() {
        check_silence(vec![Act::Hang], Silence::NoToken).await;
        check_silence(vec![Act::Wait(5_001), tokens(1)], Silence::NoToken).await;
        check_silence(vec![], Silence::Unreachable).await;
        check_silence(vec![Act::Fail(Fault::Broken)], Silence::Unreachable).await;
        check_silence(vec![commitment()], Silence::Disorder).await;
        check_silence(vec![tokens(0)], Silence::Disorder).await;
        let unreachable = Scripted::new(vec![]);
        assert!(matches!(
            ask(&unreachable, &request(), 4, opening(), &mut Since::now()).await,
            Opening::Silent(Silence::Unreachable)
        ));
        let refusing = Scripted::new(vec![vec![refusal()]]);
        assert!(matches!(ask(&refusing, &request(), 4, opening(), &mut Since::now()).await, Opening::Refused(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_first_token_the_commitment_is_owed() {
        check_stream(vec![tokens(1), Act::Hang], Err(Omission::Absent)).await;
        check_stream(vec![tokens(1)], Err(Omission::Broken)).await;
        check_stream(vec![tokens(1), Act::Fail(Fault::Broken)], Err(Omission::Broken)).await;
        check_stream(vec![tokens(1), Act::Wait(2_001), commitment()], Err(Omission::Late)).await;
        check_stream(vec![tokens(1), Act::Wait(3_100), commitment()], Err(Omission::Absent)).await;
        check_stream(vec![tokens(1), Act::Wait(501), tokens(1), commitment()], Err(Omission::Late)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_drips_ends_with_its_own_deadline() {
        let dripped = || vec![Act::Wait(4_900), tokens(1), Act::Wait(500), tokens(1), Act::Wait(500), tokens(1)];
        let then = |acts: Vec<Act>| [dripped(), acts].concat();
        // The last token came at 5.9 seconds; each step from there on is in time, and the whole is due at eight.
        check_stream(then(vec![Act::Wait(2_000), commitment()]), Ok(3)).await;
        check_stream(then(vec![Act::Wait(500), tokens(1), Act::Wait(1_601), commitment()]), Err(Omission::Late)).await;
        let begun = Instant::now();
        check_stream(then(vec![Act::Wait(500), tokens(1), Act::Hang]), Err(Omission::Absent)).await;
        assert_eq!(begun.elapsed(), ms(DEADLINES.answer_ms) + LATENESS);

        let mut hurried = request();
        hurried.deadlines = Deadlines { answer_ms: 5_200, ..DEADLINES };
        let miner = Scripted::new(vec![dripped()]);
        let Opening::Streaming(stream) = ask(&miner, &hurried, 4, opening(), &mut Since::now()).await else {
            panic!("it streamed")
        };
        assert!(matches!(stream.commitment, Err(Omission::Late)), "a token is late as a commitment is");
        // Before the first token it is silence.
        hurried.deadlines.answer_ms = 4_800;
        let miner = Scripted::new(vec![dripped()]);
        let silent = ask(&miner, &hurried, 4, opening(), &mut Since::now()).await;
        assert!(matches!(silent, Opening::Silent(Silence::NoToken)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_belong_after_a_token_is_a_violation() {
        for wrong in [tokens(0), tokens(4), refusal(), piece(1, true), Act::Fail(Fault::Violation)] {
            check_stream(vec![tokens(1), wrong, commitment()], Err(Omission::Violation)).await;
        }
    }

    /// Whether we have stood still since the last message, where a miner says no more.
    async fn check_standstill(script: Vec<Act>, expected: bool) {
        let mut since = Since::now();
        let miner = Scripted::new(vec![[script, vec![Act::Hang]].concat()]);
        let opening = ask(&miner, &request(), 4, opening(), &mut since).await;
        let Opening::Streaming(stream) = opening else { panic!("nothing was streamed") };
        assert!(matches!(stream.commitment, Err(Omission::Absent)));
        assert_eq!(since.stood_still(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_standstill_excuses_only_what_was_due_meanwhile() {
        let freeze = || vec![Act::Wait(100), Act::Freeze(2_000), Act::Wait(100)];
        check_standstill([vec![tokens(1)], freeze()].concat(), true).await;
        check_standstill([freeze(), vec![tokens(1)]].concat(), false).await;
        check_standstill([vec![tokens(1)], freeze(), vec![tokens(1)]].concat(), false).await;

        let absent = || Answer::Omitted(Omission::Absent);
        let (first, hang) = (|| vec![piece(CHUNK_BYTES, false)], || vec![Act::Hang]);
        for (script, expected) in
            [([first(), freeze(), hang()].concat(), true), ([freeze(), first(), hang()].concat(), false)]
        {
            let mut since = Since::now();
            check_answer_since(vec![script], absent(), &mut since).await;
            assert_eq!(since.stood_still(), expected);
        }
    }

    /// Too short to leave open who was late, and long enough for what came in time to be read late.
    #[tokio::test(start_paused = true)]
    async fn what_is_late_by_less_than_a_standstill_is_in_time() {
        let answers = |wait| vec![Act::Freeze(700), Act::Wait(wait), piece(40, true), Act::Hang];
        check_answer(vec![answers(10_700)], proof(40)).await;
        check_answer(vec![answers(10_701)], Answer::Omitted(Omission::Late)).await;
        let streams = |wait, then| {
            vec![tokens(1), Act::Wait(100), Act::Freeze(700), Act::Wait(wait), tokens(1), Act::Wait(then), commitment()]
        };
        check_stream(streams(1_100, 2_000), Ok(2)).await;
        check_stream(streams(1_101, 2_000), Err(Omission::Late)).await;
        check_stream(streams(100, 2_001), Err(Omission::Late)).await;
    }

    async fn check_answer(scripts: Vec<Vec<Act>>, expected: Answer) -> Vec<Message> {
        check_answer_since(scripts, expected, &mut Since::now()).await
    }

    async fn check_answer_since(scripts: Vec<Vec<Act>>, expected: Answer, since: &mut Since) -> Vec<Message> {
        let miner = Scripted::new(scripts);
        let mut wire = miner.open(opening()).await.unwrap();
        let demanded = Demand {
            session: SessionId::new([7; 32]),
            challenge: Message::Challenge(Challenge { nonce: vec![5; 32] }),
            proof_bytes: CHUNK_BYTES + 40,
            due: Instant::now() + ms(DEADLINES.proof_ms),
        };
        assert_eq!(demand(&mut wire, &miner, &demanded, since).await, expected);
        miner.opened.into_inner().unwrap()
    }

    fn proof(length: usize) -> Answer {
        Answer::Proof(SignedBytes { bytes: vec![1; length], signature: Signature([2; 64]) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_in_time_and_size_is_taken() {
        let (first, last) = (piece(CHUNK_BYTES, false), piece(40, true));
        check_answer(vec![vec![Act::Wait(9_999), first, last, Act::Hang]], proof(CHUNK_BYTES + 40)).await;
        let refused = SignedBytes { bytes: vec![1], signature: Signature([2; 64]) };
        check_answer(vec![vec![refusal(), Act::Hang]], Answer::Refusal(refused)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_that_is_late_absent_or_out_of_order_is_omitted() {
        let omitted = Answer::Omitted;
        check_answer(vec![vec![Act::Wait(10_001), piece(1, true), Act::Hang]], omitted(Omission::Late)).await;
        check_answer(vec![vec![Act::Hang]], omitted(Omission::Absent)).await;
        let first_alone = vec![Act::Wait(900), piece(CHUNK_BYTES, false), Act::Hang];
        check_answer(vec![first_alone], omitted(Omission::Absent)).await;
        for wrong in [piece(CHUNK_BYTES + 1, true), piece(1, false), piece(0, false), tokens(1), commitment()] {
            check_answer(vec![vec![wrong, Act::Hang]], omitted(Omission::Violation)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_stream_is_taken_up_again_from_the_first_byte() {
        let broken = vec![piece(CHUNK_BYTES, false)];
        let refused = vec![Act::Fail(Fault::Broken)];
        let whole = vec![Act::Wait(100), piece(CHUNK_BYTES, false), piece(40, true), Act::Hang];
        let opened = check_answer(vec![broken, refused, whole], proof(CHUNK_BYTES + 40)).await;
        let resumed = Message::Resume(Resume { session: vec![7; 32] });
        assert_eq!(opened, [opening(), resumed.clone(), resumed]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_stays_broken_ends_at_the_deadline() {
        let begun = Instant::now();
        let opened = check_answer(vec![vec![piece(CHUNK_BYTES, false)]], Answer::Omitted(Omission::Broken)).await;
        assert_eq!(begun.elapsed(), ms(DEADLINES.proof_ms));
        assert!(opened.len() > 4, "{}", opened.len());
        let unknown = vec![vec![], vec![Act::Fail(Fault::Unknown)]];
        check_answer(unknown, Answer::Omitted(Omission::Absent)).await;
    }
}
