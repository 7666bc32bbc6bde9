//! From a request's words to token ids, the same way in runtime, validator and auditor.
//!
//! A transcript file brings its tokenizer and its chat template along, so whoever wrote it chose them.
//! They are programs: what they may do is bounded here, before they run, and a panic in the libraries
//! that run them is an error like any other.

mod compile;
mod metered;
mod patterns;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use assay_commitments::TokenId;
use assay_commitments::codec::{Canonical, Malformed, Reader, Writer};
use minijinja::{Environment, context};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper};

use crate::num::long;

/// Most bytes of a prompt's texts together.
pub const MAX_PROMPT_BYTES: usize = 1 << 20;
/// Most messages of a chat.
pub const MAX_MESSAGES: usize = 1024;
/// Most bytes of a `tokenizer.json`; the largest in use have half of it.
pub const MAX_TOKENIZER_BYTES: usize = 1 << 26;
/// Most bytes of a chat template; the largest in use have a third of it.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 16;

/// Most bytes of the text of one token.
const MAX_TOKEN_BYTES: usize = 1024;
/// Most bytes of what a tokenizer puts at the end of words, and of what it puts for each letter that it does not know.
const MAX_STAND_IN_BYTES: usize = 64;
/// Most bytes of strings, and most values, in what a tokenizer does before and after its model.
const MAX_SECTION: usize = 1 << 16;
/// Most lists and objects of a `tokenizer.json`, and most commas: twice what the largest in use have. Whoever reads an
/// empty list of two bytes takes some hundred for it.
const MAX_NESTED: usize = 1 << 21;
const MAX_COMMAS: usize = 1 << 22;
/// Most regular expressions there.
const MAX_PATTERNS: usize = 8;
/// Most components there.
const MAX_COMPONENTS: usize = 16;
/// Most bytes of the added tokens together, normalised, for which an automaton is built.
const MAX_ADDED_BYTES: u64 = 1 << 22;
/// Most tokens that a post-processor's template puts around a text.
const MAX_AROUND: usize = 64;
/// Most added tokens that look at what stands before them.
const MAX_LOOKING_BACK: usize = 128;
/// How many times as long as its input what a tokenizer makes of a text may be at most.
const MAX_GROWTH: u64 = 256;
/// Most bytes of a text to be tokenised, times what the tokenizer may make of a byte: each may become a piece of its own.
const MAX_NORMALISED_BYTES: u64 = 1 << 23;
/// Most bytes of that, times how often each is looked at.
const MAX_ENCODE_WORK: u64 = 1 << 29;
/// The stack for tokenising, which does not recurse.
const ENCODE_STACK_BYTES: usize = 1 << 21;
/// The stack for reading a tokenizer, in which a hundred components may be within each other.
const LOAD_STACK_BYTES: usize = 1 << 24;
/// Most characters of what a library, or a template, says is wrong.
const MAX_COMPLAINT: usize = 1 << 10;
/// What a token counts for beside its bytes, to whoever decodes it.
const TOKEN_BYTES: u64 = 64;
/// Most bytes of the text of tokens.
const MAX_DECODED_BYTES: u64 = 1 << 25;
/// Most bytes of a rendered chat.
const MAX_RENDERED_BYTES: usize = 1 << 22;
/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`, or whatever else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

/// What a request asks the model to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Plain text.
    Text(String),
    /// A chat, rendered by the model's template.
    Chat(Vec<Message>),
}

impl Canonical for Prompt {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Text(text) => {
                out.u8(0);
                out.bytes(text.as_bytes());
            }
            Self::Chat(messages) => {
                out.u8(1);
                out.length(messages.len());
                for message in messages {
                    out.bytes(message.role.as_bytes());
                    out.bytes(message.content.as_bytes());
                }
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => Ok(Self::Text(from.text(MAX_PROMPT_BYTES)?.to_owned())),
            1 => {
                let messages = from.length(MAX_MESSAGES)?;
                let read = |from: &mut Reader<'_>, _| {
                    let role = from.text(64)?.to_owned();
                    Ok(Message { role, content: from.text(MAX_PROMPT_BYTES)?.to_owned() })
                };
                from.each(0..messages, read).map(Self::Chat)
            }
            _ => Err(Malformed::NotCanonical),
        }
    }
}

/// Why a prompt could not become tokens. Never the miner's fault: the validator chose the prompt and
/// vouches for the model's files.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PromptError {
    /// The tokenizer file is none.
    #[error("the tokenizer file cannot be read: {0}")]
    Tokenizer(String),
    /// The template file is none.
    #[error("the chat template cannot be read: {0}")]
    Template(String),
    /// The template refuses these messages.
    #[error("the chat template refuses the messages: {0}")]
    Render(String),
    /// A chat was asked of a model without a template.
    #[error("this model has no chat template: send a plain prompt")]
    NoTemplate,
    /// The tokenizer refuses the text.
    #[error("the prompt cannot be tokenised: {0}")]
    Encode(String),
}

/// A model's tokenizer.
///
/// The ids of a text are a function of the file and the text alone: what would cut or fill them up is
/// switched off, what would draw them is refused. Time is linear in the text: regular expressions are such as
/// `patterns` knows.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// How many bytes may come of one in the text in which added tokens are looked for.
    normalised_growth: u64,
    /// How many bytes may come of one before the model sees it.
    encode_growth: u64,
    /// How often one of them may be looked at.
    encode_passes: u64,
    /// Bytes of the longest added token as it is looked for: a text may be looked at as often.
    longest_added: u64,
    /// Added tokens for each of which, wherever it stands, all of the text before it may be looked at.
    looking_back: Vec<String>,
    /// How often one of a token's bytes may be.
    decode_passes: u64,
    /// How many bytes may come of one of a token's.
    decode_growth: u64,
    /// Bytes of the longest token.
    longest_token: u64,
}

/// What a tokenizer does before and after its model, to be measured before any of it is built.
#[derive(Deserialize)]
struct Sections {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(rename = "model")]
    _model: Model,
}

/// A tokenizer's model, as far as it decides whether the library may build it.
#[derive(Deserialize)]
struct Model {
    #[serde(rename = "vocab")]
    _vocab: ById,
}

/// A vocabulary that gives each token its id. Of one that lists tokens with their scores (Unigram), the library would make a
/// tree as deep as the longest token, on whatever stack there is, and with some hundred bytes for each of theirs.
struct ById;

impl<'de> Deserialize<'de> for ById {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = ById;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary that gives each token its id, as those of BPE and WordLevel do")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<ById, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(ById)
            }
        }

        from.deserialize_map(Entries)
    }
}

/// An added token, as far as it is measured.
#[derive(Deserialize)]
struct Added {
    content: String,
}

/// The size of a section: values and bytes of text.
fn size(section: &Value) -> usize {
    let sum = |sizes: &mut dyn Iterator<Item = usize>| sizes.fold(1, usize::saturating_add);
    match section {
        Value::String(text) => text.len().saturating_add(1),
        Value::Array(items) => sum(&mut items.iter().map(size)),
        Value::Object(fields) => sum(&mut fields.iter().map(|(key, value)| size(value).saturating_add(key.len()))),
        _ => 1,
    }
}

/// Whether there is such a key anywhere in a section.
fn has_key(section: &Value, key: &str) -> bool {
    match section {
        Value::Array(items) => items.iter().any(|item| has_key(item, key)),
        Value::Object(fields) => fields.iter().any(|(name, value)| name == key || has_key(value, key)),
        _ => false,
    }
}

/// How many ways to match the regular expressions of a section have together, and how many expressions there are.
/// The error is one that is not known to take linear time.
fn ways(section: &Value) -> Result<(usize, usize), &str> {
    let add = |(ways, count): (usize, usize), (more, found)| (ways.saturating_add(more), count.saturating_add(found));
    match section {
        Value::Array(items) => items.iter().try_fold((0, 0), |sum, item| Ok(add(sum, ways(item)?))),
        Value::Object(fields) => fields.iter().try_fold((0, 0), |sum, (key, value)| {
            let own = match value {
                Value::String(pattern) if key == "Regex" => (patterns::ways(pattern).ok_or(pattern.as_str())?, 1),
                // A text that is looked for is an expression to the library, and searched for at every place if it is long.
                Value::String(text) if key == "String" && text.len() > patterns::MAX_AHEAD => return Err(text.as_str()),
                Value::String(_) if key == "String" => (1, 0),
                _ => ways(value)?,
            };
            Ok(add(sum, own))
        }),
        _ => Ok((0, 0)),
    }
}

/// The components that one of several consists of.
fn parts(component: &Value) -> Option<&Vec<Value>> {
    let keys = ["normalizers", "pretokenizers", "decoders", "processors"];
    keys.iter().find_map(|key| component.get(key)).and_then(Value::as_array)
}

/// How many components there are in one.
fn components(component: &Value) -> usize {
    parts(component).into_iter().flatten().map(components).fold(1, usize::saturating_add)
}

/// How many bytes a component may make of one, or, of those that add tokens, tokens of one. Read from
/// the component as it was built, so that it is what will run.
fn growth(component: &Value) -> Result<u64, PromptError> {
    let unknown = |name: &str| PromptError::Tokenizer(format!("it has a component that has no bound: {name}"));
    // One that takes more from a token's end than there is breaks off, at every look.
    if component.get("stop").and_then(Value::as_u64).is_some_and(|stop| stop > 0) {
        return Err(unknown("Strip at a token's end"));
    }
    let name = match component {
        Value::Null => return Ok(1),
        _ => component.get("type").and_then(Value::as_str).ok_or_else(|| unknown("one without a name"))?,
    };
    // At worst the text is put before every byte.
    let text = |key: &str| {
        let length = component.get(key).and_then(Value::as_str).map_or(MAX_SECTION, str::len);
        long(length).saturating_add(1)
    };
    Ok(match name {
        "Sequence" => {
            let parts = parts(component).ok_or_else(|| unknown(name))?;
            parts.iter().try_fold(1, |product: u64, part| Ok(product.saturating_mul(growth(part)?)))?
        }
        "Replace" => text("content"),
        "Prepend" => text("prepend"),
        // The letters of byte-level tokens have two bytes for one, and make three of those two if they are no UTF-8.
        // Before every piece there may be a space.
        "ByteLevel" if component.get("add_prefix_space").and_then(Value::as_bool) != Some(true) => 2,
        "ByteLevel" | "StripAccents" | "ByteFallback" => 4,
        // Unicode's own bounds for UTF-8 are 3 for the canonical forms, 11 for the others.
        "NFC" | "NFD" => 3,
        "NFKC" | "NFKD" | "BertNormalizer" => 16,
        // Of decoders, what stands for a space may be empty: there is one before each character then.
        "Lowercase" | "WordPiece" | "BPEDecoder" | "CTC" => 2,
        "Metaspace" => 8,
        // What post-processors put around a text is bounded apart, by `puts_little_around`.
        "TemplateProcessing" | "RobertaProcessing" | "BertProcessing" | "Strip" | "Nmt" | "BertPreTokenizer"
        | "CharDelimiterSplit" | "Delimiter" | "Whitespace" | "Split" | "Punctuation" | "WhitespaceSplit"
        | "Digits" | "UnicodeScripts" | "FixedLength" | "Fuse" => 1,
        // For instance `Precompiled`, whose table may hold a text of any length.
        _ => return Err(unknown(name)),
    })
}

/// Whether no template of a post-processor repeats a text or puts many tokens around it. The template for pairs is used too:
/// by one that follows another, which leaves several texts.
fn puts_little_around(processor: &Value) -> bool {
    let templates = ["single", "pair"].map(|template| processor.get(template).and_then(Value::as_array));
    let of_parts = || parts(processor).into_iter().flatten().all(puts_little_around);
    templates.into_iter().flatten().all(|pieces| puts_few(processor, pieces)) && of_parts()
}

/// Whether these pieces of a template repeat no text and are few tokens.
fn puts_few(processor: &Value, pieces: &[Value]) -> bool {
    let text = |piece: &Value| Some(piece.get("Sequence")?.get("id")?.as_str()?.to_owned());
    let texts: Vec<String> = pieces.iter().filter_map(text).collect();
    let special = |piece: &Value| {
        let token = processor.get("special_tokens")?.get(piece.get("SpecialToken")?.get("id")?.as_str()?)?;
        let lengths = ["ids", "tokens"].map(|list| token.get(list).and_then(Value::as_array).map_or(0, Vec::len));
        lengths.into_iter().max()
    };
    let around = pieces.iter().map(|piece| special(piece).unwrap_or(0).max(1)).fold(0, usize::saturating_add);
    texts.iter().collect::<BTreeSet<_>>().len() == texts.len() && around <= MAX_AROUND
}

const BROKEN_OFF: &str = "the library that reads it broke off";

/// Runs a library on what a file says. A panic there is an error: nothing of this module unwinds.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, &'static str> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| BROKEN_OFF)
}

/// Does the same on a thread of its own with a stack of so many bytes. What the library keeps for a thread ends with it.
fn on_a_thread<T: Send>(stack_bytes: usize, work: impl FnOnce() -> T + Send) -> Result<T, &'static str> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(stack_bytes).spawn_scoped(scope, work);
        thread.map_err(|_| "there is no thread for it")?.join().map_err(|_| BROKEN_OFF)
    })
}

/// A component as it was built.
fn built<T: Serialize>(component: &T) -> Result<Value, PromptError> {
    serde_json::to_value(component).map_err(|error| PromptError::Tokenizer(one_line(&error.to_string())))
}

/// How many bytes a component may make of one, and of how many components it consists.
fn component(built: &Value) -> Result<(u64, u64), PromptError> {
    let refused = |text: &str| PromptError::Tokenizer(one_line(text));
    let (count, growth) = (components(built), growth(built)?);
    if count > MAX_COMPONENTS {
        return Err(refused("it has too many components"));
    }
    if growth > MAX_GROWTH {
        return Err(refused("it may make too much of a short text"));
    }
    Ok((growth, long(count)))
}

/// A tokenizer's added tokens by id: in this order, everybody reads the same refusal.
fn added_tokens(tokenizer: &tokenizers::Tokenizer) -> BTreeMap<u32, &AddedToken> {
    let tokens = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    tokens.iter().map(|(id, token)| (*id, token)).collect()
}

/// Whether no two added tokens are looked for as the same text: the library would find the one that it happens to have put
/// first.
fn are_distinct(added: &BTreeMap<u32, &AddedToken>, tokenizer: &tokenizers::Tokenizer) -> bool {
    let mut normalised = added.iter().filter(|(_, token)| token.normalized).map(|(id, _)| tokenizer.id_to_token(*id));
    let mut texts = BTreeSet::new();
    normalised.all(|text| text.is_some_and(|text| texts.insert(text)))
}

/// The added tokens that look at what stands before them, of such as look no farther than is known.
fn looking_back(added: &BTreeMap<u32, &AddedToken>) -> Result<Vec<String>, PromptError> {
    let refused = |text: &str| PromptError::Tokenizer(text.to_owned());
    let mut looking_back = vec![];
    for token in added.values() {
        let takes_space = token.lstrip || token.rstrip;
        if !(takes_space || token.single_word) {
            continue;
        }
        // The library looks for it again in the space that it has taken, and takes that again.
        if takes_space && token.content.trim() != token.content {
            return Err(refused("an added token that takes the space beside it is space itself"));
        }
        if token.normalized {
            return Err(refused("an added token that looks beside it is looked for in a text that was changed"));
        }
        if token.lstrip || token.single_word {
            looking_back.push(token.content.clone());
        }
    }
    if looking_back.len() > MAX_LOOKING_BACK {
        return Err(refused("too many of its added tokens look at what stands before them"));
    }
    Ok(looking_back)
}

/// Whether a model gives a text certain tokens, in bounded time and memory.
fn check_model(model: &ModelWrapper) -> Result<(), PromptError> {
    let refused = |text: &str| PromptError::Tokenizer(text.to_owned());
    match model {
        ModelWrapper::BPE(model) => {
            if model.dropout.is_some() {
                return Err(refused("it drops merges at random, so it gives a text no certain tokens"));
            }
            let length = |affix: &Option<String>| affix.as_ref().map_or(0, String::len);
            let suffix = length(&model.end_of_word_suffix);
            if length(&model.continuing_subword_prefix) > 0 || suffix > MAX_STAND_IN_BYTES {
                return Err(refused("its words have a prefix, or too long a suffix"));
            }
            if length(&model.unk_token) > MAX_STAND_IN_BYTES {
                return Err(refused("its token for what it does not know is too long"));
            }
            if model.byte_fallback && suffix > 0 {
                return Err(refused("it takes the suffix of each unknown letter apart"));
            }
        }
        ModelWrapper::WordLevel(model) => {
            if model.unk_token.len() > MAX_STAND_IN_BYTES {
                return Err(refused("its token for what it does not know is too long"));
            }
        }
        ModelWrapper::WordPiece(_) | ModelWrapper::Unigram(_) => {
            return Err(refused("its model is neither BPE nor WordLevel, and of others the time is not bounded"));
        }
    }
    Ok(())
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Truncation and padding, which it may ask for, are left out: a prompt is
    /// all of its tokens and no others.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`], also for merges that are dropped at random, and for anything of which
    /// no bound is known for what it makes of a text.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PromptError> {
        let refused = |text: &str| PromptError::Tokenizer(one_line(text));
        let count = |among: &[u8]| bytes.iter().filter(|byte| among.contains(byte)).count();
        if bytes.len() > MAX_TOKENIZER_BYTES || count(b"[{") > MAX_NESTED || count(b",") > MAX_COMMAS {
            return Err(refused("it is too long"));
        }
        let sections: Sections = serde_json::from_slice(bytes).map_err(|error| refused(&error.to_string()))?;
        let (mut matched, mut of_decoder) = ((0_usize, 0_usize), 0);
        for section in [&sections.normalizer, &sections.pre_tokenizer, &sections.post_processor, &sections.decoder] {
            if size(section) > MAX_SECTION {
                return Err(refused("what it does before or after its model is too long"));
            }
            let unknown = |pattern: &str| {
                refused(&format!("a regular expression of it is not known to take linear time: {pattern}"))
            };
            let (more, found) = ways(section).map_err(unknown)?;
            matched = (matched.0.saturating_add(more), matched.1.saturating_add(found));
            // It comes last.
            of_decoder = more;
        }
        if matched.1 > MAX_PATTERNS {
            return Err(refused("it has too many regular expressions"));
        }
        // A table that states its length is room for it as soon as it is read.
        if has_key(&sections.normalizer, "precompiled_charsmap") {
            return Err(refused("it has a component that has no bound: Precompiled"));
        }
        // The library normalises added tokens while it reads them.
        let normalizer: Option<NormalizerWrapper> =
            on_a_thread(LOAD_STACK_BYTES, || serde_json::from_value(sections.normalizer))
                .map_err(refused)?
                .map_err(|error| refused(&error.to_string()))?;
        let (normalised_growth, normalizers) = component(&built(&normalizer)?)?;
        let added = sections.added_tokens.iter().map(|token| long(token.content.len()));
        if added.fold(0, u64::saturating_add).saturating_mul(normalised_growth) > MAX_ADDED_BYTES {
            return Err(refused("its added tokens are too long together"));
        }
        let load = || -> Result<_, tokenizers::Error> {
            let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            inner.with_truncation(None)?;
            inner.with_padding(None);
            Ok(inner)
        };
        let inner =
            on_a_thread(LOAD_STACK_BYTES, load).map_err(refused)?.map_err(|error| refused(&error.to_string()))?;
        check_model(inner.get_model())?;
        let added = added_tokens(&inner);
        if !are_distinct(&added, &inner) {
            return Err(refused("two of its added tokens are one text as they are looked for"));
        }
        let looking_back = looking_back(&added)?;
        // As they are looked for, and as they are decoded.
        let normalised = added.keys().filter_map(|id| inner.id_to_token(*id)).map(|token| token.len());
        let longest_added = normalised.chain(added.values().map(|token| token.content.len())).max().unwrap_or(0);
        let longest_token = inner.get_vocab(true).keys().map(String::len).max().unwrap_or(0).max(longest_added);
        if longest_token > MAX_TOKEN_BYTES {
            return Err(refused("a token is too long"));
        }
        let mut ids: Vec<u32> = inner.get_vocab(false).into_values().collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(refused("two tokens have one id, whose text would be now the one and now the other"));
        }
        let (pre_tokenizer, pre_tokenizers) = component(&built(&inner.get_pre_tokenizer())?)?;
        let post_processor = built(&inner.get_post_processor())?;
        component(&post_processor)?;
        if !puts_little_around(&post_processor) {
            return Err(refused("its post-processor repeats the text, or puts too many tokens around it"));
        }
        let (decode_growth, decoders) = component(&built(&inner.get_decoder())?)?;
        let decode_passes = decoders.saturating_add(long(of_decoder));
        let encode_growth = normalised_growth.saturating_mul(pre_tokenizer);
        if encode_growth > MAX_GROWTH {
            return Err(refused("it may make too much of a short text"));
        }
        let encode_passes = [normalizers, pre_tokenizers, long(matched.0), 1].into_iter().fold(0, u64::saturating_add);
        Ok(Self {
            inner,
            normalised_growth,
            encode_growth,
            encode_passes,
            longest_added: long(longest_added),
            looking_back,
            decode_passes,
            decode_growth,
            longest_token: long(longest_token),
        })
    }

    /// Number of token ids, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Tokens of plain text, with the special tokens that the tokenizer puts around it.
    ///
    /// # Errors
    /// [`PromptError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, PromptError> {
        self.ids(text, true)
    }

    /// Tokens of a rendered chat, which names its special tokens itself.
    ///
    /// # Errors
    /// [`PromptError::Encode`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<TokenId>, PromptError> {
        self.ids(text, false)
    }

    fn ids(&self, text: &str, special: bool) -> Result<Vec<TokenId>, PromptError> {
        let refused = |text: &str| PromptError::Encode(one_line(text));
        let bytes = long(text.len()).saturating_mul(self.encode_growth);
        let found = self.looking_back.iter().map(|token| text.matches(token.as_str()).count());
        let added = found.map(long).fold(self.longest_added, u64::saturating_add);
        let normalised = long(text.len()).saturating_mul(self.normalised_growth);
        let work = bytes.saturating_mul(self.encode_passes).saturating_add(normalised.saturating_mul(added));
        if bytes > MAX_NORMALISED_BYTES || work > MAX_ENCODE_WORK {
            return Err(refused("it is too long for this tokenizer"));
        }
        // The library remembers words, by thread, for every tokenizer there ever was.
        let encoding = on_a_thread(ENCODE_STACK_BYTES, || self.inner.encode(text, special))
            .map_err(refused)?
            .map_err(|error| refused(&error.to_string()))?;
        Ok(encoding.get_ids().iter().copied().map(TokenId::new).collect())
    }

    /// The text of tokens, special ones left out. A function of the file and the tokens alone, and one
    /// that always has a value: where the file's decoder fails on them, or could make more than 32 MiB
    /// of them, they have no text, for everybody. No stop string is then found in them.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let ids: Vec<u32> = tokens.iter().map(|token| token.get()).collect();
        let decode = || {
            let length = |id: &u32| long(self.inner.id_to_token(*id).map_or(0, |token| token.len())).saturating_add(1);
            let bytes = ids.iter().map(length).fold(0, u64::saturating_add);
            let bounded = bytes.saturating_mul(self.decode_growth) <= MAX_DECODED_BYTES;
            bounded.then(|| self.inner.decode(&ids, true).ok()).flatten()
        };
        guarded(decode).ok().flatten().unwrap_or_default()
    }

    /// The most bytes that [`Self::decode`] makes of so many tokens, whichever they are, with what each token costs beside its
    /// text; and how often each is looked at.
    pub(crate) fn most_decoded(&self, tokens: usize) -> (u64, u64) {
        let bytes = long(tokens).saturating_mul(self.longest_token.saturating_add(TOKEN_BYTES));
        (bytes.saturating_mul(self.decode_growth).min(MAX_DECODED_BYTES), self.decode_passes)
    }
}

/// A model's chat template: Jinja source as models ship it.
///
/// The text of a chat is a function of the source and the messages alone: `strftime_now`, which reads the
/// clock, is not defined, so templates that ask whether it is take their fixed date, and templates that
/// call it are refused. What rendering may take is bounded; see `metered`.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

/// The source with every `generation` and `endgeneration` tag, which mark what a trainer learns from and
/// print nothing, turned into a comment. A comment trims the space around it by the same marks.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        out.push_str(before);
        let inner = tag.split_once("%}").map(|(inner, after)| {
            let left = inner.strip_prefix(['-', '+']).map_or("", |_| inner.get(..1).unwrap_or(""));
            let word = inner.get(left.len()..).unwrap_or("");
            let right = if word.ends_with('-') {
                "-"
            } else if word.ends_with('+') {
                "+"
            } else {
                ""
            };
            let word = word.strip_suffix(right).unwrap_or(word).trim();
            (left, word, right, after)
        });
        rest = if let Some((left, word @ ("generation" | "endgeneration"), right, after)) = inner {
            out.extend(["{#", left, " ", word, " ", right, "#}"]);
            after
        } else {
            out.push_str("{%");
            tag
        };
    }
    out.push_str(rest);
    out
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`PromptError::Template`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PromptError> {
        let source = std::str::from_utf8(bytes).map_err(|error| PromptError::Template(error.to_string()))?;
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(PromptError::Template("it is too long".to_owned()));
        }
        // The lines of a template end as its author's system ends them, those of its text do not.
        let source = without_generation_tags(&source.replace("\r\n", "\n").replace('\r', "\n"));
        let environment = metered::environment();
        guarded(|| metered::check(&source))
            .map_err(|text| PromptError::Template(text.to_owned()))?
            .map_err(|error| PromptError::Template(one_line(&error.to_string())))?;
        Ok(Self { environment, source })
    }

    /// The text of a chat, up to where the assistant speaks.
    ///
    /// # Errors
    /// [`PromptError::Render`].
    pub fn render(&self, messages: &[Message]) -> Result<String, PromptError> {
        let bytes = messages.iter().map(|message| message.role.len().saturating_add(message.content.len()));
        if messages.len() > MAX_MESSAGES || bytes.fold(0, usize::saturating_add) > MAX_PROMPT_BYTES {
            return Err(PromptError::Render("there are too many of them".to_owned()));
        }
        // Templates take what is absent here for what is not supported by whoever calls them.
        let root = context! { messages, tools => (), documents => (), add_generation_prompt => true };
        let text = guarded(|| metered::render(&self.environment, &self.source, root))
            .map_err(|text| PromptError::Render(text.to_owned()))?
            .map_err(|error| {
                let error = one_line(&error.to_string());
                // Not a function that is forgotten: the text would depend on the day. In a macro it has no name.
                let is_nameless = error.contains("undefined is not callable");
                let calls = |name: &str| error.contains(name) || (is_nameless && self.source.contains(name));
                let clock = if calls("strftime_now") { "it reads the clock: " } else { "" };
                PromptError::Render(format!("{clock}{error}"))
            })?;
        if text.len() > MAX_RENDERED_BYTES {
            return Err(PromptError::Render("their text is too long".to_owned()));
        }
        Ok(text)
    }
}

/// The tokens of a prompt.
///
/// # Errors
/// [`PromptError`].
pub fn prompt_tokens(
    prompt: &Prompt,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<Vec<TokenId>, PromptError> {
    match prompt {
        Prompt::Text(text) => tokenizer.encode(text),
        Prompt::Chat(messages) => {
            let template = template.ok_or(PromptError::NoTemplate)?;
            tokenizer.encode_rendered(&template.render(messages)?)
        }
    }
}

fn one_line(text: &str) -> String {
    let end = text.char_indices().nth(MAX_COMPLAINT).map_or(text.len(), |(end, _)| end);
    text.get(..end).unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    use rayon::prelude::*;
    use serde_json::json;

    /// A tokenizer of bytes: ids 0 to 255, and two special tokens, 256 and 257.
    pub(crate) fn byte_tokenizer_json() -> Value {
        let mut next = 256;
        let mut vocabulary = serde_json::Map::new();
        for byte in 0..=255_u32 {
            // The printable stand-ins of byte-level BPE.
            let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let stand_in = if printable { byte } else { next };
            next += u32::from(!printable);
            vocabulary.insert(char::from_u32(stand_in).unwrap().to_string(), byte.into());
        }
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        };
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(256, "<|none|>"), special(257, "<|end|>")],
            "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                      "vocab": vocabulary, "merges": []},
        })
    }

    /// The same with a token of a thousand bytes.
    pub(crate) fn wordy_tokenizer_json() -> Value {
        let mut json = byte_tokenizer_json();
        json["model"]["vocab"]["x".repeat(1_000)] = 258.into();
        json
    }

    pub(crate) fn byte_tokenizer() -> Tokenizer {
        load(&byte_tokenizer_json()).unwrap()
    }

    fn load(json: &Value) -> Result<Tokenizer, PromptError> {
        Tokenizer::from_bytes(json.to_string().as_bytes())
    }

    fn changed(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, PromptError> {
        let mut json = byte_tokenizer_json();
        change(&mut json);
        load(&json)
    }

    #[test]
    fn a_tokenizer_neither_cuts_nor_fills_up_a_prompt() {
        let whole = byte_tokenizer().encode("abcdefgh").unwrap();
        assert_eq!(whole.len(), 8);
        // The first stride panics in the library, which cuts before it looks.
        for stride in [9, 1] {
            let cut = changed(|json| {
                json["truncation"] = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst",
                                            "stride": stride});
            });
            assert_eq!(cut.unwrap().encode("abcdefgh").unwrap(), whole);
        }
        let filled = changed(|json| {
            json["padding"] = json!({"strategy": {"Fixed": 1_000_000}, "direction": "Right",
                                     "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
        });
        assert_eq!(filled.unwrap().encode("abcdefgh").unwrap(), whole);
    }

    /// Which of them an id reads as would follow from how a table happens to be laid out.
    #[test]
    fn two_tokens_of_one_id_are_refused() {
        let twice = |json: &mut Value| json["model"]["vocab"]["END"] = json!(7);
        let error = changed(twice).unwrap_err();
        assert!(error.to_string().contains("one id"), "{error}");
        let words = changed(|json| {
            json["model"] = json!({"type": "WordLevel", "vocab": {"a": 0, "b": 0}, "unk_token": "a"});
            json["added_tokens"] = json!([]);
        });
        assert!(words.unwrap_err().to_string().contains("one id"));
    }

    /// Which of them is found would follow from how a table happens to be laid out in a process.
    #[test]
    fn two_added_tokens_that_are_looked_for_as_one_text_are_refused() {
        let added = |normalizer: Value, tokens: &[&str]| {
            changed(|json| {
                json["normalizer"] = normalizer;
                let list = tokens.iter().zip(258..).map(|(token, id)| {
                    json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": true, "special": false})
                });
                json["added_tokens"].as_array_mut().unwrap().extend(list);
            })
        };
        let alike = [
            (json!({"type": "Lowercase"}), ["Foo", "FOO"]),
            (json!({"type": "NFC"}), ["\u{1e0b}", "d\u{307}"]),
            (json!({"type": "NFKC"}), ["\u{fb01}", "fi"]),
            (json!({"type": "Replace", "pattern": {"String": " "}, "content": "_"}), [" x", "_x"]),
        ];
        for (normalizer, tokens) in alike {
            let error = added(normalizer.clone(), &tokens).unwrap_err();
            assert!(error.to_string().contains("are one text"), "{error}");
            assert!(added(Value::Null, &tokens).is_ok());
            for token in tokens {
                let ids = added(normalizer.clone(), &[token]).unwrap().encode(tokens[0]).unwrap();
                assert_eq!(ids, [TokenId::new(258)], "{token}");
            }
        }
    }

    /// A prompt of the most bytes is tokenised by expressions that models have; many ways to look at each of what comes
    /// of it are refused before they are tried.
    #[test]
    fn how_often_a_text_is_looked_at_is_bounded() {
        let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let with = |patterns: &[&str]| {
            let mut parts: Vec<Value> = patterns.iter().map(|pattern| split(pattern)).collect();
            parts.push(byte_level.clone());
            changed(|json| json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": parts})).unwrap()
        };
        let long = " it's 1,000  \n\nHERE".repeat(MAX_PROMPT_BYTES / 20);
        let llama = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        assert_eq!(with(&[llama]).encode(&long).unwrap().len(), long.len());
        let many = "a|".repeat(200) + "b";
        let error = with(&[&many, &many]).encode(&long).map(|tokens| tokens.len()).unwrap_err();
        assert!(error.to_string().contains("too long for this tokenizer"), "{error}");
    }

    /// As Qwen has it: the letters are composed before they are cut.
    #[test]
    fn a_prompt_of_the_most_bytes_may_be_composed() {
        let composed = changed(|json| json["normalizer"] = json!({"type": "NFC"})).unwrap();
        let long = "e\u{301} \u{1d160}\n".repeat(MAX_PROMPT_BYTES / 9);
        assert!(composed.encode(&long).unwrap().len() > long.len());
    }

    #[test]
    fn tokenizers_that_draw_are_refused() {
        for dropout in [0.0, 0.5] {
            let error = changed(|json| json["model"]["dropout"] = json!(dropout)).unwrap_err();
            assert!(error.to_string().contains("at random"), "{error}");
        }
    }

    #[test]
    fn what_a_tokenizer_makes_of_a_text_is_bounded_before_it_runs() {
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let doubling = |key: &str| json!({"type": "Sequence", key: vec![replace("a", "aa"); 40]});
        // Forty steps would make a terabyte of one letter.
        assert!(changed(|json| json["normalizer"] = doubling("normalizers")).is_err());
        assert!(changed(|json| json["decoder"] = doubling("decoders")).is_err());
        assert!(changed(|json| json["normalizer"] = replace("a", &"a".repeat(1000))).is_err());
        assert!(changed(|json| json["model"]["vocab"]["a".repeat(1025)] = json!(300)).is_err());
        assert!(changed(|json| json["model"]["end_of_word_suffix"] = json!("x".repeat(64))).is_ok());
        assert!(changed(|json| json["model"]["end_of_word_suffix"] = json!("x".repeat(65))).is_err());
        assert!(changed(|json| json["model"]["continuing_subword_prefix"] = json!("##")).is_err());
        assert!(changed(|json| json["model"]["unk_token"] = json!("x".repeat(65))).is_err());
        let words = |unknown: &str| {
            let vocab = json!({unknown: 0, "a": 1});
            changed(|json| json["model"] = json!({"type": "WordLevel", "vocab": vocab, "unk_token": unknown}))
        };
        assert!(words("?").is_ok() && words(&"x".repeat(65)).is_err());
        assert!(changed(|json| json["normalizer"] = replace(&"a".repeat(17), "b")).is_err());
        // Each letter that is not known would be as many tokens as the suffix has bytes.
        let with_suffix = changed(|json| {
            json["model"]["end_of_word_suffix"] = json!("</w>");
            json["model"]["byte_fallback"] = json!(true);
        });
        assert!(with_suffix.is_err());
        let sequence = |key: &str, part: &Value, count| json!({"type": "Sequence", key: vec![part.clone(); count]});
        let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        for (most, part) in [(8, split("a")), (MAX_COMPONENTS - 1, json!({"type": "WhitespaceSplit"}))] {
            let with = |count| changed(|json| json["pre_tokenizer"] = sequence("pretokenizers", &part, count));
            assert!(with(most).is_ok() && with(most + 1).is_err());
        }
        let error = changed(|json| json["pre_tokenizer"] = split("(?=[^b]*b)|a")).unwrap_err();
        assert!(error.to_string().contains("linear time: (?=[^b]*b)|a"), "{error}");
        assert!(
            changed(|json| json["normalizer"] = sequence("normalizers", &json!({"type": "Nmt"}), MAX_COMPONENTS))
                .is_err()
        );
        assert!(
            changed(|json| json["decoder"] = sequence("decoders", &json!({"type": "Fuse"}), MAX_COMPONENTS)).is_err()
        );
        // It would have room for eight gigabytes made.
        let table = json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="});
        for normalizer in
            [table.clone(), sequence("normalizers", &table, 1), json!({"precompiled_charsmap": "/////w=="})]
        {
            let error = changed(|json| json["normalizer"] = normalizer).unwrap_err();
            assert!(error.to_string().contains("Precompiled"), "{error}");
        }
        let strip = |stop: u32| json!({"type": "Strip", "content": " ", "start": 1, "stop": stop});
        assert!(
            changed(|json| json["decoder"] = strip(0)).is_ok() && changed(|json| json["decoder"] = strip(1)).is_err()
        );
        // A word's delimiter that is empty stands before every character.
        let ctc = |delimiter: &str| json!({"type": "CTC", "pad_token": "\0", "word_delimiter_token": delimiter, "cleanup": true});
        assert!(changed(|json| json["decoder"] = sequence("decoders", &ctc(""), 8)).is_ok());
        assert!(changed(|json| json["decoder"] = sequence("decoders", &ctc(""), 9)).is_err());
        // As models have them.
        let metaspace = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"},
                                                                   replace(" ", "\u{2581}")]});
        assert!(changed(|json| json["normalizer"] = metaspace).is_ok());
        assert!(changed(|json| json["normalizer"] = json!({"type": "NFC"})).is_ok());
        let long = "x".repeat(MAX_PROMPT_BYTES);
        assert_eq!(byte_tokenizer().encode(&long).unwrap().len(), long.len());
        assert!(byte_tokenizer().encode(&long.repeat(9)).is_err());
    }

    /// Whoever reads a list takes memory for it, empty or not.
    #[test]
    fn a_file_of_empty_lists_is_not_read() {
        let nothing = format!(r#"{{"normalizer":[{}0]}}"#, "[],".repeat(MAX_NESTED));
        assert!(Tokenizer::from_bytes(nothing.as_bytes()).unwrap_err().to_string().contains("too long"));
        let nothing = format!(r#"{{"normalizer":[{}0]}}"#, "0,".repeat(MAX_COMMAS + 1));
        assert!(Tokenizer::from_bytes(nothing.as_bytes()).unwrap_err().to_string().contains("too long"));
    }

    /// Stop strings are looked for in what a decoder makes, by every way to match of its expressions.
    #[test]
    fn a_decoder_works_as_often_as_its_expressions_have_ways_to_match() {
        let with = |pattern: &str| {
            let replace = json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": ""});
            changed(|json| json["decoder"] = replace).unwrap().most_decoded(1).1
        };
        assert_eq!(with("[xy]|[xz]|[xw]"), with("[xy]") + 2);
    }

    /// What a post-processor makes is all there at once.
    #[test]
    fn what_is_put_around_a_text_is_bounded() {
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let special = json!({"SpecialToken": {"id": "s", "type_id": 0}});
        let template = |single: Vec<Value>, ids: usize| {
            let special = json!({"id": "s", "ids": vec![256; ids], "tokens": vec!["s"; ids]});
            json!({"type": "TemplateProcessing", "single": single, "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
                   "special_tokens": {"s": special}})
        };
        let with = |template: Value| changed(|json| json["post_processor"] = template);
        let around = with(template(vec![special.clone(), text.clone()], MAX_AROUND - 1)).unwrap();
        assert_eq!(around.encode("ab").unwrap().len(), MAX_AROUND + 1);
        let nested = |template: Value| json!({"type": "Sequence", "processors": [template]});
        let mut pair = template(vec![text.clone()], 1);
        pair["pair"] = json!(vec![text.clone(); 2]);
        for refused in [
            pair,
            template(vec![special.clone(), text.clone()], MAX_AROUND),
            template(vec![text.clone(), text.clone()], 1),
            template(vec![special; MAX_AROUND + 1], 1),
        ] {
            for refused in [refused.clone(), nested(refused)] {
                let error = with(refused).unwrap_err();
                assert!(error.to_string().contains("post-processor repeats"), "{error}");
            }
        }
        assert!(with(nested(template(vec![text.clone()], 1))).is_ok());
    }

    /// A token of a megabyte would be a tree of a million levels, which overflows a stack when it is dropped.
    #[test]
    fn models_that_list_scores_are_refused_before_they_are_built() {
        for kind in [json!("Unigram"), json!("BPE"), Value::Null] {
            let vocab = json!([["<unk>", 0.0], ["a".repeat(1 << 20), 0.0]]);
            let error = changed(|json| json["model"] = json!({"type": kind, "unk_id": 0, "vocab": vocab})).unwrap_err();
            assert!(error.to_string().contains("gives each token its id"), "{error}");
        }
        for vocab in [json!([]), Value::Null] {
            assert!(
                changed(|json| json["model"] = json!({"type": "Unigram", "unk_id": null, "vocab": vocab})).is_err()
            );
        }
    }

    /// The library takes a run of space anew for each of its parts, and looks at all of a text for each token in it.
    #[test]
    fn added_tokens_that_look_beside_them_are_bounded() {
        let with = |content: &str, flags: &[&str]| {
            changed(|json| {
                let mut token = json!({"id": 258, "content": content, "single_word": false, "lstrip": false,
                                       "rstrip": false, "normalized": false, "special": true});
                flags.iter().for_each(|flag| token[flag] = json!(true));
                json["added_tokens"].as_array_mut().unwrap().push(token);
            })
        };
        for (content, flags) in [("\n", &["rstrip"][..]), ("x\u{3000}", &["rstrip"]), (" x", &["lstrip"])] {
            let error = with(content, flags).unwrap_err();
            assert!(error.to_string().contains("is space itself"), "{error}");
        }
        for flag in ["lstrip", "rstrip", "single_word"] {
            let error = with("x", &[flag, "normalized"]).unwrap_err();
            assert!(error.to_string().contains("a text that was changed"), "{error}");
        }
        // As models have them.
        let user = with("<|user|>", &["rstrip"]).unwrap();
        let spaces = "<|user|>".to_owned() + &"\n".repeat(MAX_PROMPT_BYTES / 2);
        assert_eq!(user.encode(&spaces.repeat(2)).unwrap(), [TokenId::new(258); 2]);
        assert!(with("\n", &[]).is_ok());
        for flag in ["lstrip", "single_word"] {
            let words = with("x", &[flag]).unwrap();
            assert_eq!(words.encode(&"x ".repeat(100)).unwrap().len(), if flag == "lstrip" { 101 } else { 200 });
            let error = words.encode(&"x ".repeat(MAX_PROMPT_BYTES / 2)).unwrap_err();
            assert!(error.to_string().contains("too long for this tokenizer"), "{error}");
        }
        let many = |count: u32, length: usize, single_word: bool| {
            changed(|json| {
                let token = |id: u32| {
                    json!({"id": id, "content": format!("{id:0length$}"), "single_word": single_word, "lstrip": false,
                           "rstrip": false, "normalized": false, "special": true})
                };
                json["added_tokens"].as_array_mut().unwrap().extend((258..258 + count).map(token));
            })
        };
        assert!(many(128, 8, true).is_ok() && many(129, 8, true).is_err());
        assert!(many(4_000, 1_000, false).is_ok() && many(4_300, 1_000, false).is_err());
    }

    /// The library normalises added tokens while it reads them, looks for them from every place that is behind a shorter
    /// one, and decodes them as they were normalised.
    #[test]
    fn what_added_tokens_take_is_bounded() {
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let token = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": true, "special": false})
        };
        let with = |normalizer: Value, contents: &[&str]| {
            changed(|json| {
                json["normalizer"] = normalizer;
                let tokens = (258..).zip(contents).map(|(id, content)| token(id, content));
                json["added_tokens"].as_array_mut().unwrap().extend(tokens);
            })
        };
        // A gigabyte of one letter, were it read.
        let doubling = json!({"type": "Sequence", "normalizers": vec![replace("a", "aa"); 30]});
        assert!(with(doubling, &["a"]).is_err());
        assert!(with(replace("a", &"c".repeat(50)), &[&"a".repeat(100)]).is_err(), "a token of 5,000 bytes");
        let grown = with(replace("a", &"c".repeat(50)), &["aaaa"]).unwrap();
        assert_eq!(grown.most_decoded(1).0, 2 * (200 + TOKEN_BYTES));
        let long = "a".repeat(1_000) + "b";
        let behind = with(Value::Null, &["a", &long]).unwrap();
        assert_eq!(behind.encode(&"a".repeat(1_000)).unwrap().len(), 1_000);
        let error = behind.encode(&"a".repeat(MAX_PROMPT_BYTES)).unwrap_err();
        assert!(error.to_string().contains("too long for this tokenizer"), "{error}");
    }

    #[test]
    fn a_panic_of_a_library_is_an_error() {
        let broken: fn() = || panic!("on purpose");
        assert!(guarded(broken).is_err());
        assert_eq!(guarded(|| 3), Ok(3));
        // An id that the vocabulary lacks has no text, and none of the others loses theirs.
        let (known, unknown) = (TokenId::new(u32::from(b'a')), TokenId::new(u32::MAX));
        assert_eq!(byte_tokenizer().decode(&[known, unknown, known]), "aa");
    }

    #[test]
    fn generation_tags_print_nothing_with_any_trim_marks() {
        let marks = ["", "-", "+"];
        for (left, right) in marks.iter().flat_map(|left| marks.map(|right| (*left, right))) {
            for spaces in ["", " ", "\n "] {
                let tag = |word: &str| format!("{{%{left}{spaces}{word}{spaces}{right}%}}");
                // A tag that the engine knows, which prints nothing either, shows what the marks do.
                let source =
                    |open: &str, close: &str| format!("a \n  {}  b {{{{ 1 }}}} {} \n c", tag(open), tag(close));
                let render = |source: &str| ChatTemplate::from_bytes(source.as_bytes()).unwrap().render(&[]).unwrap();
                let expected = render(&source("if true", "endif"));
                assert_eq!(render(&source("generation", "endgeneration")), expected, "{left}{spaces}{right}");
            }
        }
        assert_eq!(without_generation_tags("{% generations %}{%"), "{% generations %}{%");
        assert_eq!(without_generation_tags("{%-%}{%%}{%+"), "{%-%}{%%}{%+");
    }

    #[test]
    fn a_template_that_reads_the_clock_is_refused() {
        let template = ChatTemplate::from_bytes(b"{{ strftime_now('%d %b %Y') }}").unwrap();
        let error = template.render(&[]).unwrap_err();
        assert!(error.to_string().contains("reads the clock"), "{error}");
        let template =
            ChatTemplate::from_bytes(b"{% macro m() %}{{ strftime_now('%Y') }}{% endmacro %}{{ m() }}").unwrap();
        assert!(template.render(&[]).unwrap_err().to_string().contains("reads the clock"));
        let source = b"{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024{% endif %}";
        assert_eq!(ChatTemplate::from_bytes(source).unwrap().render(&[]).unwrap(), "2024");
    }

    #[test]
    fn a_template_that_makes_much_of_little_ends_in_an_error() {
        let repeat = |step: &str| {
            format!("{{% set ns = namespace(s='xyz', t=['xyz']) %}}{{% for i in range(9999) %}}{step}{{% endfor %}}")
        };
        let steps = [
            "{% set ns.s = ns.s ~ ns.s %}",
            "{% set ns.s = ns.s + ns.s %}",
            "{% set ns.s = '' ~ ('' ~ ns.s) ~ ns.s %}",
            "{% set ns.s = ns.s * 1000 %}",
            "{% set ns.s = [ns.s, ns.s] | join %}",
            "{% set ns.s = ns.s | join('xyz') %}",
            "{% set ns.s = 'xyz'.join(ns.s | list) %}",
            "{% set ns.s = ns.s | replace('x', 'xx') %}",
            "{% set ns.s = ns.s.replace('x', 'xx') %}",
            "{% set ns.s = ns.s.replace('', 'xx') %}",
            "{% set ns.s = [ns.s, ns.s] | string %}",
            "{% set ns.s = [ns.s, ns.s] | tojson %}",
            "{% set ns.s = [ns.s, ns.s] %}{% if i == 60 %}{{ ns.s }}{% endif %}",
            "{% set ns.s = [ns.s, ns.s] %}{% if i == 60 %}{% set x = '' ~ ns.s %}{% endif %}",
            "{% set ns.s = [ns.s, ns.s] %}{% if i == 60 %}{% set x = ns.s | upper %}{% endif %}",
            "{% set ns.t = ns.t + ns.t %}{% set ns.s = ns.t | list %}",
            "{% set ns.t = (ns.t * 1000) | list %}",
            "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}",
            "{% set ns.s = 'x' * (i + 1000000) %}{% set ns.t = [ns.t, ns.s[1:]] %}",
            "{% set ns.s = 'x' * (i + 1000000) %}{% set ns.t = [ns.t, ns.s | trim] %}",
            "{% set ns.s = [ns.s, ns.s] %}{% if i == 60 %}{{ ns.s in 'x' }}{% endif %}",
            "{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% if i == 60 %}{{ ns.s == ns.t }}{% endif %}",
            "{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% if i == 60 %}{{ ns.s is lt(ns.t) }}{% endif %}",
            "{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% if i == 60 %}{{ [ns.s, ns.t] | sort }}{% endif %}",
            "{% set ns.s = [ns.s, ns.s] %}{% if i == 60 %}{{ [ns.s] | select('eq', ns.t) | list }}{% endif %}",
            "{{ [1] | tojson(100000000000) }}",
            "{{ [1] | tojson(indent=100000000000) }}",
            "{{ [[1]] | map('tojson', 100000000000) | list }}",
        ];
        steps.into_par_iter().for_each(|step| {
            let template = ChatTemplate::from_bytes(repeat(step).as_bytes()).unwrap();
            assert!(template.render(&[]).is_err(), "{step}");
        });
    }

    /// Two lists that share their parts, of 2^26 ends each: whatever walks them is charged for it.
    #[test]
    fn whatever_walks_a_value_is_metered() {
        for use_of in ["[ns.s].count(ns.t)", "raise_exception(ns.s)"] {
            let source = format!(
                "{{% set ns = namespace(s=[], t=[]) %}}{{% for i in range(26) %}}{{% set ns.s = [ns.s, ns.s] %}}\
                 {{% set ns.t = [ns.t, ns.t] %}}{{% endfor %}}{{{{ {use_of} }}}}"
            );
            let rendered = ChatTemplate::from_bytes(source.as_bytes()).unwrap().render(&[]);
            let error = rendered.map_err(|error| error.to_string()).unwrap_err();
            assert!(error.contains("too much in memory"), "{use_of}");
        }
    }

    /// A namespace may hold itself, and what walks it has no end.
    #[test]
    fn a_value_that_holds_itself_is_an_error() {
        for use_of in ["ns", "ns | tojson", "ns == ns", "[ns] | sort", "'' ~ ns", "[ns].count(m)"] {
            let source = format!(
                "{{% set ns = namespace() %}}{{% set ns.a = [ns] %}}{{% set m = namespace() %}}{{% set m.a = [m] %}}{{{{ {use_of} }}}}"
            );
            assert!(ChatTemplate::from_bytes(source.as_bytes()).unwrap().render(&[]).is_err(), "{use_of}");
        }
    }

    /// What one instruction walks is charged for, however often it is walked and whatever for.
    #[test]
    fn what_is_looked_for_and_where_is_metered() {
        let long = "{% set ns = namespace(s='x' * (messages | length + 1) * 100000, n=0) %}{% for i in range(20000) %}";
        let shared = "{% set ns = namespace(s=[]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}\
            {% for i in range(1) %}";
        let list = "{% set ns = namespace(s=range(90000) | list, n=0) %}{% for i in range(20000) %}";
        let empty = "{% set ns = namespace(s=[''] * (messages | length + 90000), n=0) %}{% for i in range(20000) %}";
        let path = "{% set ns = namespace(s=range(90000) | list, p='a.' * (messages | length + 4000), n=0) %}\
            {% for i in range(1) %}";
        for (begin, use_of) in [
            (long, "{% set ns.n = ns.s[-1] %}"),
            (long, "{% set ns.n = ns.s is sameas(ns.s ~ '') %}"),
            (long, "{% for c in ns.s %}{% break %}{% endfor %}"),
            (long, "{% set ns.n = ns.s | first %}"),
            (long, "{% set ns.n = ns.s is iterable %}"),
            (long, "{% set ns.n = ([ns.s] * 2000) | map(attribute='49999') %}"),
            (empty, "{% set ns.n = ns.s == 1 %}"),
            (empty, "{% set ns.n = ns.s | string %}"),
            (empty, "{% set ns.n = ns.s | map('default', '') %}"),
            (long, "{% set ns.n = ns.s.strip(ns.s ~ 'y') %}"),
            (long, "{% set ns.n = ns.s | trim(ns.s ~ 'y') %}"),
            (long, "{% set ns.n = [ns.s] | replace('', ns.s) %}"),
            (path, "{% set ns.n = ns.s | map(attribute=ns.p) %}"),
            (path, "{% set ns.n = ns.s | sort(attribute=ns.p) %}"),
            (list, "{% set ns.s = ns.s[1:] %}"),
            (list, "{% set ns.s = [0] + ns.s %}"),
            (list, "{% set ns.s = ns.s | reverse %}"),
            (list, "{% set ns.n = messages * (100000000000 + i) %}"),
            (list, "{% set ns.n = (100000000000 + i) * [1][1:] %}"),
            (list, "{% set ns.n = (ns.s | reverse)[5] %}"),
            (list, "{% set ns.n = range(90000)[80000] %}"),
            (list, "{% set ns.n = namespace(dict(a=1)) %}{% set ns.n = ns.s.count(1) %}"),
            (shared, "{% set ns.n = {'a': 1}[ns.s] %}"),
            (shared, "{% set ns.n = {'a': 1}.get(ns.s) %}"),
            (shared, "{% set ns.n = {'a': 1} | attr(ns.s) %}"),
            (shared, "{% set ns.n = ns.s in {'a': 1} %}"),
            (shared, "{% set ns.n = [{'a': 1}] | map(attribute=ns.s) | list %}"),
        ] {
            let source = format!("{begin}{use_of}{{% endfor %}}");
            let rendered = ChatTemplate::from_bytes(source.as_bytes()).unwrap().render(&[]);
            let error = rendered.map_err(|error| error.to_string()).unwrap_err();
            assert!(error.contains("too much in memory"), "{use_of}: {error}");
        }
        let copies = format!(
            "{{% set d = {{ {} }} %}}{{% for i in range(20000) %}}{{% set x = dict(d) %}}{{% endfor %}}",
            (0..2000).map(|key| format!("'{key}': 1")).collect::<Vec<_>>().join(", ")
        );
        assert!(ChatTemplate::from_bytes(copies.as_bytes()).unwrap().render(&[]).is_err());
        // One that is taken apart is the last, for it has another length than the names.
        let taken = "{% set a, b = range(90000) %}";
        assert!(ChatTemplate::from_bytes(taken.as_bytes()).unwrap().render(&[]).is_err());
    }

    #[test]
    fn a_namespace_has_few_attributes() {
        let of = |count: u32| {
            let attributes: Vec<String> = (0..count).map(|name| format!("'a{name}': 1")).collect();
            let source = format!("{{% set ns = namespace({{{}}}) %}}{{{{ ns.a0 }}}}", attributes.join(", "));
            ChatTemplate::from_bytes(source.as_bytes()).unwrap().render(&[])
        };
        assert_eq!(of(256).unwrap(), "1");
        assert!(of(257).unwrap_err().to_string().contains("so many attributes"));
    }

    #[test]
    fn a_list_is_sorted_by_one_attribute() {
        let rendered = |source: &[u8]| ChatTemplate::from_bytes(source).unwrap().render(&[]);
        assert_eq!(rendered(b"{{ ([{'a': 2}, {'a': 1}] | sort(attribute='a'))[0].a }}").unwrap(), "1");
        for several in
            [&b"{{ [{'a': 2}] | sort(attribute='a,a') }}"[..], b"{{ [{'a': 2}] | sort(false, false, 'a,a') }}"]
        {
            assert!(rendered(several).unwrap_err().to_string().contains("several attributes"));
        }
    }

    /// A text of no length is found again and again at the same place.
    #[test]
    fn a_text_of_no_length_is_not_counted() {
        let rendered = |source: &[u8]| ChatTemplate::from_bytes(source).unwrap().render(&[]);
        assert!(rendered(b"{{ 'aba'.count('') }}").unwrap_err().to_string().contains("no length"));
        assert_eq!(rendered(b"{{ 'aba'.count('a') }}{{ ['', 'a'].count('') }}").unwrap(), "21");
    }

    #[test]
    fn what_a_template_says_is_wrong_is_cut() {
        let source = b"{{ raise_exception('no! ' * (messages | length + 100000)) }}";
        let error = ChatTemplate::from_bytes(source).unwrap().render(&[]).unwrap_err().to_string();
        assert!(error.contains("no! no! no!") && error.len() < 2 * MAX_COMPLAINT, "{}", error.len());
    }

    /// A template is read on a stack of its own, and what is deep in it is refused before it is compiled.
    #[test]
    fn a_template_that_is_nested_deeply_is_an_error() {
        let deep = MAX_TEMPLATE_BYTES - 64;
        for source in [
            format!("{{{{ {}1 }}}}", "-".repeat(deep)),
            format!("{{{{ {}1 }}}}", "not ".repeat(deep / 4)),
            format!("{{{{ x{} }}}}", ".a".repeat(deep / 2)),
            format!("{{{{ x{} }}}}", "[0]".repeat(deep / 3)),
            format!("{{{{ x{} }}}}", "()".repeat(deep / 2)),
            format!("{{{{ x{} }}}}", "|f".repeat(deep / 2)),
            format!("{{{{ a{} }}}}", "+a".repeat(deep / 2)),
            format!("{{{{ 'a'{} }}}}", "~'a'".repeat(deep / 4)),
            format!("{{{{ {}1{} }}}}", "(".repeat(deep / 2), ")".repeat(deep / 2)),
            format!("{{{{ {}1{} }}}}", "[".repeat(deep / 2), "]".repeat(deep / 2)),
            format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(deep / 12)),
            "{% if 1 %}".repeat(deep / 10),
        ] {
            assert!(ChatTemplate::from_bytes(source.as_bytes()).is_err(), "{}", &source[..40]);
        }
        let chain = format!("{{{{ 'a'{} }}}}", " ~ 'a'".repeat(200));
        assert_eq!(ChatTemplate::from_bytes(chain.as_bytes()).unwrap().render(&[]).unwrap(), "a".repeat(201));
    }

    /// What is exchanged leaves loops, branches, macros and their jumps as they were.
    #[test]
    fn exchanged_instructions_do_as_the_engine_does() {
        let cases = [
            ("{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }};{% endfor %}", "12;34;"),
            ("{% for a in range(9) if a % 2 %}{% if a == 5 %}{% continue %}{% endif %}{{ a }}{% endfor %}", "137"),
            ("{% for a in 'xyz' %}{% if a == 'z' %}{% break %}{% endif %}{{ a }}{% else %}none{% endfor %}", "xy"),
            ("{% for a in [] %}x{% else %}none{% endfor %}{{ 'b' if false else 'c' }}", "nonec"),
            (
                "{% macro f(a, b=2) %}{% for c in a %}{{ c }}{{ b }}{% endfor %}{% endmacro %}{{ f('xy') }}{{ f('z', b=3) }}",
                "x2y2z3",
            ),
            (
                "{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}{% for a in [1, 2] %}{{ a }}{% endfor %}{% endcall %}",
                "[12]",
            ),
            (
                "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{% set x %}{% filter upper %}q{% endfilter %}{% endset %}{{ x }}",
                "3Q",
            ),
            (
                "{{ {'role': 'user', 'content': messages | length}['content'] }}{{ 'abc'[-1] }}{{ [1, 2, 3][1:] }}",
                "0c[2, 3]",
            ),
            (
                "{{ '-' * 20 }}{{ 2 ** 3 }}{{ 1 < 2 and 'a' in 'abc' or false }}{{ messages[7] is defined }}",
                "--------------------8TrueFalse",
            ),
            (
                "{{ (messages + [3]) is sequence }}{{ none is sameas none }}{{ [3, 1] | sort | reverse | first }}",
                "TrueTrue3",
            ),
            ("{{ [1, 2] + [3] }}{{ ([] + [] + []) is sequence }}", "[1, 2, 3]True"),
        ];
        for (source, expected) in cases {
            assert_eq!(
                ChatTemplate::from_bytes(source.as_bytes()).unwrap().render(&[]).as_deref(),
                Ok(expected),
                "{source}"
            );
        }
        let undefined = ChatTemplate::from_bytes(b"{{ nothing['a'] }}").unwrap().render(&[]);
        assert!(undefined.unwrap_err().to_string().contains("undefined"));
    }

    #[test]
    fn what_cannot_be_metered_is_refused_when_a_template_is_read() {
        for source in [
            "{% set r = range(100000) %}{% set z = namespace(*r, *r) %}",
            "{% set r = {'a': 1} %}{% set z = namespace(**r) %}",
            "{% set x = {messages: 1} %}",
            "{% set x = {18446744073709551617: 1} %}",
            &format!("{{% set x = {{'{}': 1}} %}}", "a".repeat(257)),
            &format!("{{{{ {} }}}}", "a".repeat(257)),
            &format!("{{{{ a.{} }}}}", "a".repeat(257)),
            &format!("{{{{ f({}=1) }}}}", "a".repeat(257)),
            &format!("{{% macro f({}a) %}}{{% endmacro %}}", "a,".repeat(64)),
            &format!("{{{{ f({}1) }}}}", "1,".repeat(64)),
            "{% for m in messages %}{{ loop.changed(m) }}{% endfor %}",
            "{% for m in messages recursive %}{{ loop([m]) }}{% endfor %}",
            "{{ 'x' * 100000000 }}",
            "{{ 'x' * 100 * 100 }}",
            "{{ 27774470 * 5550555577 * () }}",
            "{{ [] * 100 * 100 * 100 * 100 * 100 * 100 * 100 }}",
            "{{ 100 * [1] }}",
            "{{ [1] * 9000000000000000000 == [1] * 9000000000000000000 }}",
            "{% set a, b = [1] * 9000000000000000000 %}",
            "{{ ([1] * 100 + [1] * 100) | length }}",
            &(0..257).map(|name| format!("{{% set ns.a{name} = 1 %}}")).collect::<Vec<_>>().concat(),
            "{{ 'x' * 4096 + 'x' * 4096 + 'x' * 4096 + 'x' * 4096 + 'x' }}",
            &format!("{{{{ [{}] + [] }}}}", "1,".repeat(513)),
            "{{ 'x' * 4096 ~ 'x' * 4096 ~ 'x' * 4096 ~ 'x' * 4096 ~ 'x' }}",
            "{{ 2.5 ** 0.5 }}",
            "{{ 0 / 0 }}",
            "{% if (0 / 0) < 1 %}{% endif %}",
            "{{ 1e308 * 10 - 1e308 * 10 }}",
            "{{ 2 ** -1 }}",
            "{{ a == b == 1 }}",
            "{% include ['a', 'b'] %}",
            "{% import 'a' as a %}",
            "{% extends 'a' %}",
            "{% block a %}{% endblock %}",
            "{% autoescape true %}{% endautoescape %}",
        ] {
            let error = ChatTemplate::from_bytes(source.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("not supported"), "{error}");
        }
    }

    /// Such values have a sign, and so a place among others, which one platform gives them and another does not.
    #[test]
    fn what_the_platform_would_decide_is_refused_when_it_comes_up() {
        for value in [
            "(messages | length) / (messages | length)",
            "1 % (messages | length)",
            "(1e308 * 10) * (messages | length)",
            "(1e308 * 10) - 1e308 * (10 + (messages | length))",
            "(1e308 * 10) + -1e308 * (10 + (messages | length))",
            "1.5 | round(-320)",
            "1.5 | round(16)",
            "[1.5] | map('round', -1) | first",
            "'nan' | float",
            "'abc'[0:2:-1]",
            "range(5)[::-2]",
            "[1] | tojson(indent=2)",
            "[1] | tojson(ensure_ascii=true)",
        ] {
            for source in [format!("{{{{ {value} }}}}"), format!("{{% if ({value}) < 1 %}}{{% endif %}}")] {
                let rendered = ChatTemplate::from_bytes(source.as_bytes()).unwrap().render(&[]);
                let error = rendered.map_err(|error| error.to_string()).unwrap_err();
                assert!(error.contains("not supported") || error.contains("unable to calculate"), "{value}: {error}");
            }
        }
        let source = "{{ 7 - 2 }} {{ 7 / 2 }} {{ 7 // 2 }} {{ 7 % 3 }} {{ 2.345 | round(2) }} {{ 'abc'[::-1] }} {{ 2.5 | round }} \
            {{ ['\u{e9}'] | tojson(ensure_ascii=False) }} {{ 1e308 * 10 }}";
        let rendered = ChatTemplate::from_bytes(source.as_bytes()).unwrap().render(&[]).unwrap();
        assert_eq!(rendered, "5 3.5 3 1 2.35 cba 3.0 [\"\u{e9}\"] inf");
    }

    /// Neither rendering nor dropping a value that is nested deeply may overflow the stack of whoever asks.
    #[test]
    fn deeply_nested_values_do_not_overflow_the_stack() {
        let source = b"{% set ns = namespace(s=[]) %}{% for i in range(60000) %}{% set ns.s = [ns.s] %}{% endfor %}\
            {{ 'x' ~ ns.s | length }}";
        let template = ChatTemplate::from_bytes(source).unwrap();
        assert_eq!(template.render(&[]).unwrap(), "x1");
        let printed = [source.as_slice(), b"{{ ns.s }}"].concat();
        assert!(ChatTemplate::from_bytes(&printed).unwrap().render(&[]).is_ok());
    }

    #[test]
    fn an_ordinary_template_renders_as_many_messages_as_there_may_be() {
        let source = b"{%- set ns = namespace(system='') -%}{%- for m in messages -%}{%- if m.role == 'system' -%}\
            {%- set ns.system = ns.system + m.content + '\\n\\n' -%}{%- endif -%}{%- endfor -%}{{ ns.system }}\
            {%- for m in messages -%}{%- if m.role == 'user' and not loop.first and loop.index0 % 2 == 0 -%}\
            {{ '<|user|>' + m['content'] | trim ~ '<|end|>' }}{%- elif m.role == 'assistant' -%}\
            {{ '<|assistant|>' + m['content'].split('</think>')[-1].lstrip() + '<|end|>' }}{%- endif -%}{%- endfor -%}";
        let template = ChatTemplate::from_bytes(source).unwrap();
        let mut messages = vec![message("system", "be kind")];
        messages.extend((1..MAX_MESSAGES).map(|i| message(if i % 2 == 0 { "user" } else { "assistant" }, "hello")));
        assert!(template.render(&messages).is_ok());
        messages.push(message("user", "one more"));
        assert!(template.render(&messages).is_err());
        assert!(template.render(&[message("user", &"x".repeat(MAX_PROMPT_BYTES))]).is_err());
    }

    /// As much as a chat may have, thoughts in every answer.
    #[test]
    fn templates_as_models_ship_them_render_the_longest_chats() {
        for source in [
            &include_bytes!("../../fixtures/families/templates/thinking.jinja")[..],
            include_bytes!("../../fixtures/families/templates/tools.jinja"),
        ] {
            let template = ChatTemplate::from_bytes(source).unwrap();
            for count in [2, 40, MAX_MESSAGES] {
                let each = MAX_PROMPT_BYTES / count - 16;
                let message = |number: usize| {
                    let is_question = number.is_multiple_of(2);
                    let (role, begin) = if is_question { ("user", "") } else { ("assistant", "<think>\n") };
                    let end = if is_question { "" } else { "\n</think>\n\n so.\n" };
                    let words = "thought ".repeat((each - begin.len() - end.len()) / 8);
                    Message { role: role.to_owned(), content: [begin, &words, end].concat() }
                };
                let messages: Vec<Message> = (0..count).map(message).collect();
                let rendered = template.render(&messages).map(|text| text.len());
                assert!(rendered.as_ref().is_ok_and(|length| *length > MAX_PROMPT_BYTES / 4), "{count}: {rendered:?}");
            }
        }
    }

    #[test]
    fn what_a_template_prints_is_bounded() {
        let template = ChatTemplate::from_bytes(b"{% for a in range(9000) %}{{ 'x' * 1000 }}{% endfor %}").unwrap();
        assert!(template.render(&[]).is_err());
        assert!(ChatTemplate::from_bytes(&vec![b'x'; MAX_TEMPLATE_BYTES + 1]).is_err());
        let endless = b"{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
        assert!(ChatTemplate::from_bytes(endless).unwrap().render(&[]).is_err());
    }

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    #[test]
    fn templates_render_as_models_ship_them() {
        let source = b"{% set bos = '<s>' %}\n{{ bos }}{% for m in messages %}\n    \
            {%- if m['role'].startswith('sys') %}[{{ m.content | trim }}]{% else %}{% generation %}({{ m.content }}){% endgeneration %}{% endif %}\n\
            {%- endfor %}{% if add_generation_prompt %}<a>{% endif %}";
        let template = ChatTemplate::from_bytes(source).unwrap();
        let text = template.render(&[message("system", " be kind "), message("user", "hi")]).unwrap();
        assert_eq!(text, "<s>[be kind](hi)<a>");
    }

    #[test]
    fn a_template_renders_the_same_whatever_ends_its_lines() {
        let render =
            |source: &str| ChatTemplate::from_bytes(source.as_bytes()).unwrap().render(&[message("user", "a\r\nb")]);
        let source = "x\n{% if true %}\ny\n{% endif %}\n{{ messages[0].content ~ 'l\nm' }}\n";
        assert_eq!(render(source).unwrap(), "x\ny\na\r\nbl\nm");
        for end in ["\r\n", "\r"] {
            assert_eq!(render(&source.replace('\n', end)), render(source));
        }
    }

    #[test]
    fn a_template_may_refuse() {
        let template = ChatTemplate::from_bytes(b"{{ raise_exception('no system role') }}").unwrap();
        let error = template.render(&[]).unwrap_err();
        assert!(error.to_string().contains("no system role"), "{error}");
        assert!(ChatTemplate::from_bytes(b"{% if %}").is_err());
    }

    #[test]
    fn an_endless_template_runs_out_of_fuel() {
        let template = ChatTemplate::from_bytes(
            b"{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}",
        );
        assert!(template.unwrap().render(&[]).is_err());
    }
}
