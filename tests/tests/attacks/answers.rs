//! Rows 15 to 17: another prompt, other tokens, another sampler.

use std::ops::ControlFlow;

use assay_audit::prompt::{Message, Prompt};
use assay_audit::sampling::Sampling;
use assay_audit::verdict::{Reason, Stage, Verdict, Where};
use assay_commitments::trace::FinishReason;
use assay_commitments::{Position, TokenId};
use assay_miner::{Backend, ServeError};
use assay_proto::v1::Tokens;
use assay_proto::v1::miner_message::Message as FromMiner;
use assay_tests::adversary::{Answer, Seat, Serving, as_scripted, message};
use assay_tests::arena::{Arena, keys};
use assay_tests::{fixture, session};

use crate::cast::chat;
use crate::table::{Cheat, THOROUGH, VERSE, at_the_answer, claimed, verdict};

/// The fixture's stop token.
const STOP: TokenId = TokenId::new(1);

/// Asks the model something else than what was asked.
fn prompted(prompt: fn(&Prompt) -> Prompt) -> Cheat {
    Cheat::of(claimed().asked(move |request, asked| asked.prompt = prompt(&request.prompt)))
        .asked(|question| question.ask.prompt = chat(VERSE))
}

fn messages(prompt: &Prompt) -> Vec<Message> {
    match prompt {
        Prompt::Chat(messages) => messages.clone(),
        Prompt::Text(_) => panic!("a chat was asked"),
    }
}

/// Samples in another way, for so many tokens that some are others than were asked for.
fn sampled(change: fn(&mut Sampling)) -> Cheat {
    let adversary = claimed().asked(move |_, asked| change(&mut asked.sampling));
    Cheat::of(adversary).asked(|question| question.ask.max_tokens = 64)
}

/// Writes another answer than the likeliest one, which is of sixteen tokens whatever the seed is.
fn rewritten(change: impl Fn(&mut Answer) + Send + Sync + 'static) -> Cheat {
    Cheat::of(claimed().written(move |_, answer| change(answer))).asked(|question| question.ask.temperature = 0.0)
}

/// The position after which the answer to the verse has the token of that number.
fn picking(token: usize) -> Position {
    let first = fixture().assets.tokenizer.encode(VERSE).unwrap().len() - 1;
    Position::new(u32::try_from(first + token).unwrap())
}

fn from_the_eighth(place: &Where) -> bool {
    place.position >= Some(picking(8))
}

attacks! {
    /// another question answered
    attack_15_prompt_substituted: Always [WrongPrompt] => {
        prompted(|_| Prompt::Text("The LORD is my shepherd".to_owned()))
    };
    /// the system message dropped
    attack_15_system_prompt_dropped: Always [WrongPrompt] => {
        prompted(|prompt| Prompt::Chat(messages(prompt).split_off(1)))
    };
    /// the context cut short
    attack_15_context_truncated: Always [WrongPrompt] => prompted(|prompt| {
        let mut messages = messages(prompt);
        messages[1].content.drain(..20);
        Prompt::Chat(messages)
    });
    /// another chat template
    attack_15_other_template: Always [WrongPrompt] => prompted(|prompt| {
        let lines = messages(prompt).into_iter().map(|message| format!("[{}] {}\n", message.role, message.content));
        Prompt::Text(lines.collect())
    });
    /// another tokenizer: a token for every character
    attack_15_other_tokenizer: Always [WrongPrompt] => {
        let local = fixture();
        Cheat::of(claimed().written(move |_, answer| {
            let tokens = |text: char| local.assets.tokenizer.encode(&text.to_string()).unwrap();
            answer.prompt = VERSE.chars().flat_map(tokens).collect();
        }))
    };
    /// another question answered under the right prompt's name
    attack_15_prompt_misnamed: Always [WrongEmbeddings] => {
        let local = fixture();
        let Cheat { question, .. } = Cheat::of(claimed());
        let adversary = claimed()
            .asked(|_, asked| asked.prompt = Prompt::Text("The LORD is my shepherd".to_owned()))
            .commitment(move |_, commitment| commitment.prompt = local.assets.tokenizer.encode(VERSE).unwrap());
        Cheat { question, ..Cheat::of(adversary) }
    };
    /// a token substituted after decoding
    attack_16_token_substituted: Drawn [WrongToken] at from_the_eighth => rewritten(|answer| {
        let middle = answer.output.len() / 2;
        answer.output[middle] = TokenId::new(300 + (answer.output[middle].get() + 1) % 700);
    });
    /// the answer ended early with a stop token
    attack_16_early_stop: Drawn [WrongToken] at |place| place.position == Some(picking(8)) => rewritten(|answer| {
        answer.output.truncate(8);
        answer.output.push(STOP);
        answer.finish = FinishReason::StopToken;
    });
    /// the answer cut short
    attack_16_cut_short: Always [WrongFinish] => rewritten(|answer| answer.output.truncate(8));
    /// tokens appended after a stop token
    attack_16_appended: Always [WrongFinish] => rewritten(|answer| {
        answer.output.insert(3, STOP);
        answer.output.truncate(16);
    });
    /// a stop string passed over
    attack_16_stop_string_passed_over: Always [WrongFinish] => {
        Cheat::of(claimed().asked(|_, asked| asked.stop.clear())).asked(|question| question.ask.stop = vec!["e".to_owned()])
    };
    /// a stop string claimed where there is none
    attack_16_stop_string_claimed: Always [WrongFinish] => rewritten(|answer| {
        answer.output.truncate(8);
        answer.finish = FinishReason::StopString;
    });
    /// more tokens than were asked for
    attack_16_padded: Always [ProtocolViolation] => {
        Cheat::of(claimed().written(|request, answer| {
            answer.output.resize(request.max_tokens as usize + 8, TokenId::new(500));
        }))
    };
    /// other tokens streamed than committed
    attack_16_stream_differs: Always [StreamMismatch] => Cheat::speaking(at_the_answer(|_, mut due| {
        due[0] = message(FromMiner::Tokens(Tokens { ids: vec![500] }));
        as_scripted(due)
    }));
    /// a token outside the vocabulary
    attack_16_unknown_token: Always [UnknownToken] => {
        Cheat::of(claimed().commitment(|_, commitment| commitment.output[0] = TokenId::new(5_000)))
    };
    /// the likeliest token always
    attack_17_greedy: Drawn [WrongToken] => sampled(|sampling| *sampling = Sampling::GREEDY);
    /// another temperature
    attack_17_other_temperature: Drawn [WrongToken] => sampled(|sampling| sampling.temperature = 0.4);
    /// another seed
    attack_17_other_seed: Drawn [WrongToken] => sampled(|sampling| sampling.seed ^= 1);
    /// only the two largest logits
    attack_17_top_k_narrowed: Drawn [WrongToken] => sampled(|sampling| sampling.top_k = 2);
    /// a token that is not among those allowed
    attack_17_token_not_allowed: Always [TokenNotAllowed] => {
        Cheat::of_one_cell(|adversary| adversary.written(|_, answer| answer.output[0] = TokenId::new(7)))
            .asked(|question| question.ask.top_k = 1)
    };
    /// only tokens of a tenth of the probability
    attack_17_top_p_narrowed: Drawn [WrongToken] => sampled(|sampling| sampling.top_p = 0.1);
    /// all tokens where those of a tenth of the probability are allowed
    attack_17_top_p_widened: Drawn [TokenNotAllowed, WrongToken] => {
        sampled(|sampling| sampling.top_p = 1.0).asked(|question| question.ask.top_p = 0.1)
    };
    /// all tokens where two are allowed
    attack_17_top_k_widened: Drawn [TokenNotAllowed, WrongToken] => {
        sampled(|sampling| sampling.top_k = 0).asked(|question| question.ask.top_k = 2)
    };
}

/// A stored answer whose seed is not the request's.
#[tokio::test(flavor = "multi_thread")]
async fn attack_17_stored_answer() {
    let (local, honest) = (fixture(), fixture().backend());
    let request = session(VERSE, 64, 1).run(&local, &honest).unwrap().record.request;
    let served = honest.serve(&request, &mut |_| ControlFlow::Continue(())).unwrap();
    let Cheat { mut question, script, .. } = Cheat::of(claimed());
    (question.ask.max_tokens, question.policy) = (64, THOROUGH);
    // With all its rows it was made before it is asked for: honest, but for the seed.
    let stored =
        Serving::new(honest, move |_, _, on_token| match served.output.iter().try_for_each(|token| on_token(*token)) {
            ControlFlow::Continue(()) => Ok(served.clone()),
            ControlFlow::Break(()) => Err(ServeError::Cancelled),
        });
    let seat = Seat::start(stored, keys(1), script).await;
    let found = verdict(Arena::new(&local).ask(seat.peer(), &question).await);
    let Verdict::Rejected(failure) = found else { panic!("{found:?}") };
    assert_eq!((failure.reason, failure.place.stage), (Reason::WrongToken, Stage::Decode), "{failure:?}");
}
