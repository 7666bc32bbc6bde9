//! What miners are asked.

use assay_audit::prompt::Prompt;
use thiserror::Error;

/// A question, but for what each session adds to it: the seed of the sampler, the nonce, the
/// deadlines. A miner cannot have the answer ready, because the seed is fresh.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// What to continue.
    pub prompt: Prompt,
    /// Temperature of the sampler. At 0 an answer does not depend on the seed, and a stored one
    /// would do: validators' own questions are not greedy.
    pub temperature: f32,
    /// How many of the largest logits are allowed; 0 allows all.
    pub top_k: u32,
    /// Probability mass that is allowed, in (0, 1].
    pub top_p: f32,
    /// Most output tokens.
    pub max_tokens: u32,
    /// Strings that end the answer.
    pub stop: Vec<String>,
}

/// Where questions come from.
pub trait RequestSource: Send + Sync + 'static {
    /// A question; `random` is fresh for each.
    fn draw(&self, random: u64) -> Ask;
}

/// There is nothing to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the list of prompts is empty: give at least one")]
pub struct NoPrompts;

/// Questions from a list, each as likely as the others.
#[derive(Clone, Debug)]
pub struct PromptList {
    prompts: Vec<Prompt>,
    like: Ask,
}

impl PromptList {
    /// Asks for at most `max_tokens` tokens, at temperature 1 from the whole distribution, without stop
    /// strings.
    ///
    /// # Errors
    /// [`NoPrompts`].
    pub fn new(prompts: Vec<Prompt>, max_tokens: u32) -> Result<Self, NoPrompts> {
        let first = prompts.first().cloned().ok_or(NoPrompts)?;
        let like = Ask { prompt: first, temperature: 1.0, top_k: 0, top_p: 1.0, max_tokens, stop: Vec::new() };
        Ok(Self { prompts, like })
    }

    /// Asks with another temperature, top-k and top-p.
    #[must_use]
    pub fn with_sampling(mut self, temperature: f32, top_k: u32, top_p: f32) -> Self {
        self.like = Ask { temperature, top_k, top_p, ..self.like };
        self
    }

    /// Asks with stop strings.
    #[must_use]
    pub fn with_stop(mut self, stop: Vec<String>) -> Self {
        self.like.stop = stop;
        self
    }
}

impl RequestSource for PromptList {
    fn draw(&self, random: u64) -> Ask {
        let count = u64::try_from(self.prompts.len()).unwrap_or(u64::MAX);
        let index = usize::try_from(random % count).unwrap_or(0);
        Ask { prompt: self.prompts[index].clone(), ..self.like.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_comes_up_and_none_is_greedy() {
        let prompts: Vec<Prompt> = ["one", "two", "three"].map(|text| Prompt::Text(text.to_owned())).to_vec();
        let list = PromptList::new(prompts.clone(), 8).unwrap();
        let asked: Vec<Ask> = (0..6).map(|random| list.draw(random)).collect();
        assert!(prompts.iter().all(|prompt| asked.iter().any(|ask| ask.prompt == *prompt)));
        assert!(asked.iter().all(|ask| ask.temperature > 0.0 && ask.max_tokens == 8));
        assert_eq!(PromptList::new(Vec::new(), 8).unwrap_err(), NoPrompts);
    }
}
