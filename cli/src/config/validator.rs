//! `validator.toml`.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use assay_audit::policy::{Columns, MAX_COLUMNS, MAX_DRAWS, Policy};
use assay_audit::prompt::{MAX_PROMPT_BYTES, Message, Prompt};
use assay_audit::request::{AuditRate, Deadlines};
use assay_audit::sampling::Sampling;
use assay_commitments::trace::MAX_TOKENS;
use assay_validator::{PromptList, Terms};
use serde::Deserialize;

use super::{Base, ChainSettings, WalletSettings};
use crate::files::read_text;
use crate::networks::Place;
use crate::outcome::Fault;

/// A validator's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ValidatorFile {
    records: PathBuf,
    transcripts: PathBuf,
    /// Whether transcripts carry tokenizer and chat template, or only name them.
    #[serde(default)]
    inline_assets: bool,
    chain: ChainSettings,
    pub(crate) wallet: WalletSettings,
    asks: Asks,
    #[serde(default)]
    sessions: Sessions,
    #[serde(default)]
    audits: Audits,
    #[serde(default)]
    deadlines: DeadlineSettings,
    /// The numbers that validators of one subnet should share.
    #[serde(default)]
    probation: assay_probation::Policy,
}

/// `[asks]`: what miners are asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asks {
    /// JSON Lines: each a string, or a list of messages.
    prompts: PathBuf,
    max_tokens: u32,
    #[serde(default = "one")]
    temperature: f32,
    #[serde(default)]
    top_k: u32,
    #[serde(default = "one")]
    top_p: f32,
}

const fn one() -> f32 {
    1.0
}

/// `[sessions]`: how many, and how many at once.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sessions {
    /// With each miner in an epoch.
    requests: u32,
    at_once: usize,
    per_miner: usize,
    verifying: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { requests: 8, at_once: 16, per_miner: 1, verifying: 2 }
    }
}

/// `[audits]`: what is checked, and how often.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Audits {
    /// Of the responses of miners in good standing, so many in a hundred; of all others every one.
    percent: f64,
    /// Every cell and decode of a response, in place of a draw.
    everything: bool,
    cells: u32,
    decodes: u32,
    columns: u32,
    /// Columns are drawn in one audit of so many.
    columns_one_in: u32,
    least_budget_ms: u32,
}

impl Default for Audits {
    fn default() -> Self {
        let Policy::Sampled { cells, decodes, columns, least_budget_ms } = Policy::DEFAULT else {
            unreachable!("the usual policy draws")
        };
        let (columns, columns_one_in) = columns.map_or((0, 1), |columns| (columns.count.get(), columns.one_in.get()));
        Self { percent: 50.0, everything: false, cells, decodes, columns, columns_one_in, least_budget_ms }
    }
}

/// `[deadlines]`, in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_field_names, reason = "a number in a configuration says its unit")]
struct DeadlineSettings {
    first_token_ms: u32,
    token_ms: u32,
    commitment_ms: u32,
    answer_ms: u32,
    settle_ms: u32,
    proof_ms: u32,
}

impl Default for DeadlineSettings {
    fn default() -> Self {
        Self {
            first_token_ms: 10_000,
            token_ms: 5_000,
            commitment_ms: 10_000,
            answer_ms: 300_000,
            settle_ms: 10_000,
            proof_ms: 60_000,
        }
    }
}

/// A validator's configuration, checked.
#[derive(Clone, Debug)]
pub(crate) struct ValidatorSettings {
    pub(crate) records: PathBuf,
    pub(crate) transcripts: PathBuf,
    pub(crate) prompts: PathBuf,
    pub(crate) place: Place,
    pub(crate) terms: Terms,
    pub(crate) audit_rate: AuditRate,
    pub(crate) probation: assay_probation::Policy,
    pub(crate) requests: u32,
    pub(crate) sessions: usize,
    pub(crate) sessions_per_miner: usize,
    pub(crate) verifying: usize,
    sampling: Sampling,
    max_tokens: u32,
}

impl ValidatorFile {
    pub(crate) fn check(&self, base: &Base) -> Result<ValidatorSettings, Fault> {
        let Sessions { requests, at_once, per_miner, verifying } = self.sessions;
        let counts = [
            ("sessions.requests", usize::try_from(requests).unwrap_or(usize::MAX)),
            ("sessions.at_once", at_once),
            ("sessions.per_miner", per_miner),
            ("sessions.verifying", verifying),
            ("asks.max_tokens", usize::try_from(self.asks.max_tokens).unwrap_or(usize::MAX)),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, given)| *given == 0) {
            return Err(base.refuse(name, "with 0 nothing would be asked; give at least 1"));
        }
        if usize::try_from(self.asks.max_tokens).is_ok_and(|most| most > MAX_TOKENS) {
            return Err(base.refuse("asks.max_tokens", &format!("give at most {MAX_TOKENS}")));
        }
        let Asks { temperature, top_k, top_p, max_tokens, .. } = self.asks;
        let sampling = Sampling { temperature, top_k, top_p, seed: 0 };
        if !sampling.is_valid() || temperature == 0.0 {
            let why = "give a temperature of 0.001 to 100, and a top_p above 0 and at most 1; a greedy question could be \
                       answered from a store";
            return Err(base.refuse("asks", why));
        }
        let DeadlineSettings { first_token_ms, token_ms, commitment_ms, answer_ms, settle_ms, proof_ms } =
            self.deadlines;
        let deadlines = Deadlines { first_token_ms, token_ms, commitment_ms, answer_ms, settle_ms, proof_ms };
        if deadlines.each().contains(&0) {
            return Err(base.refuse("deadlines", "a deadline of 0 ms cannot be kept by anybody"));
        }
        Ok(ValidatorSettings {
            records: base.path(&self.records),
            transcripts: base.path(&self.transcripts),
            prompts: base.path(&self.asks.prompts),
            place: self.chain.check(base)?,
            terms: Terms { policy: self.audits.policy(base)?, deadlines, inline_assets: self.inline_assets },
            audit_rate: self.audits.rate(base)?,
            probation: self.probation,
            requests,
            sessions: at_once,
            sessions_per_miner: per_miner,
            verifying,
            sampling,
            max_tokens,
        })
    }
}

impl Audits {
    fn policy(&self, base: &Base) -> Result<Policy, Fault> {
        if self.everything {
            return Ok(Policy::Everything);
        }
        let Self { cells, decodes, columns, columns_one_in, least_budget_ms, .. } = *self;
        for (name, given, least, most) in [
            ("audits.cells", cells, 1, MAX_DRAWS),
            ("audits.decodes", decodes, 1, MAX_DRAWS),
            ("audits.columns", columns, 0, MAX_COLUMNS),
        ] {
            if !(least..=most).contains(&given) {
                return Err(base.refuse(name, &format!("give {least} to {most}; more is `everything`")));
            }
        }
        let Some(one_in) = NonZeroU32::new(columns_one_in) else {
            return Err(
                base.refuse("audits.columns_one_in", "give 1 for columns in every audit; for none give columns = 0")
            );
        };
        let columns = NonZeroU32::new(columns).map(|count| Columns { count, one_in });
        Ok(Policy::Sampled { cells, decodes, columns, least_budget_ms })
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^63, after the check")]
    fn rate(&self, base: &Base) -> Result<AuditRate, Fault> {
        match self.percent {
            100.0 => Ok(AuditRate::Always),
            // Of 2^64; half of it at a time, for what is a float.
            percent if percent > 0.0 && percent < 100.0 => {
                Ok(AuditRate::Below(((percent / 100.0 * 9_223_372_036_854_775_808.0) as u64).saturating_mul(2)))
            }
            _ => Err(base.refuse("audits.percent", "give more than 0 and at most 100")),
        }
    }
}

/// Most bytes of a file of prompts.
const MAX_PROMPTS_BYTES: usize = 1 << 28;

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Text(String),
    Chat(Vec<Said>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    role: String,
    content: String,
}

impl ValidatorSettings {
    /// What miners are asked, from the file of prompts.
    pub(crate) fn questions(&self) -> Result<PromptList, Fault> {
        let path = &self.prompts;
        let text = read_text(path, MAX_PROMPTS_BYTES)?;
        let prompts = read_prompts(&text, path)?;
        let list = PromptList::new(prompts, self.max_tokens)
            .map_err(|error| Fault::usage(format!("{}: {error}", path.display())))?;
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        Ok(list.with_sampling(temperature, top_k, top_p))
    }
}

fn read_prompts(text: &str, path: &Path) -> Result<Vec<Prompt>, Fault> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(index, line): (usize, &str)| {
        let refuse = |why: &str| Fault::usage(format!("{}:{}: {why}", path.display(), index + 1));
        if line.len() > MAX_PROMPT_BYTES {
            return Err(refuse("this prompt is too long"));
        }
        match serde_json::from_str(line) {
            Ok(Line::Text(text)) => Ok(Prompt::Text(text)),
            Ok(Line::Chat(said)) => {
                Ok(Prompt::Chat(said.into_iter().map(|Said { role, content }| Message { role, content }).collect()))
            }
            Err(_) => Err(refuse(
                "a line is a JSON string, or a list of messages {\"role\": …, \"content\": …}; this is neither",
            )),
        }
    };
    lines.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_text_or_chats_and_a_bad_line_is_named() {
        let text = "\"In the beginning\"\n\n[{\"role\":\"user\",\"content\":\"Who?\"}]\n";
        let prompts = read_prompts(text, Path::new("p")).unwrap();
        let chat = Prompt::Chat(vec![Message { role: "user".to_owned(), content: "Who?".to_owned() }]);
        assert_eq!(prompts, [Prompt::Text("In the beginning".to_owned()), chat]);
        for bad in ["In the beginning", "{}", "[1]", "[{\"role\":\"user\"}]"] {
            let error = read_prompts(&format!("\"fine\"\n{bad}\n"), Path::new("p")).unwrap_err();
            assert!(error.message.starts_with("p:2: "), "{error}");
        }
    }

    #[test]
    fn a_share_of_audits_is_a_share_of_all_draws() {
        let base = Base::default();
        let rate = |percent| Audits { percent, ..Audits::default() }.rate(&base);
        assert_eq!(rate(100.0).unwrap(), AuditRate::Always);
        assert_eq!(rate(50.0).unwrap(), AuditRate::Below(1 << 63));
        assert_eq!(rate(25.0).unwrap(), AuditRate::Below(1 << 62));
        for percent in [0.0, -1.0, 100.5, f64::NAN] {
            assert!(rate(percent).unwrap_err().message.contains("audits.percent"), "{percent}");
        }
    }
}
