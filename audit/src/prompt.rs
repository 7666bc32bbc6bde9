//! From a request's words to token ids, the same way in runtime, validator and auditor.

use assay_commitments::TokenId;
use assay_commitments::codec::{Canonical, Malformed, Reader, Writer};
use minijinja::{Environment, context};
use serde::Serialize;
use thiserror::Error;

/// Most bytes of a prompt's texts together.
pub const MAX_PROMPT_BYTES: usize = 1 << 20;
/// Most messages of a chat.
pub const MAX_MESSAGES: usize = 1024;

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
                let read = |from: &mut Reader<'_>| {
                    let role = from.text(64)?.to_owned();
                    Ok(Message { role, content: from.text(MAX_PROMPT_BYTES)?.to_owned() })
                };
                (0..messages).map(|_| read(from)).collect::<Result<_, _>>().map(Self::Chat)
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
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PromptError> {
        let inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| PromptError::Tokenizer(one_line(&error.to_string())))?;
        Ok(Self { inner })
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
        let encoding =
            self.inner.encode(text, special).map_err(|error| PromptError::Encode(one_line(&error.to_string())))?;
        Ok(encoding.get_ids().iter().copied().map(TokenId::new).collect())
    }

    /// The text of tokens, special ones left out.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let ids: Vec<u32> = tokens.iter().map(|token| token.get()).collect();
        // Decoding fails only on a decoder that the file itself got wrong; such a model has no text.
        self.inner.decode(&ids, true).unwrap_or_default()
    }
}

/// A model's chat template: Jinja source as models ship it.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

const TEMPLATE: &str = "chat";

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`PromptError::Template`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PromptError> {
        let source = std::str::from_utf8(bytes).map_err(|error| PromptError::Template(error.to_string()))?;
        // `generation` tags mark what a trainer learns from; they print nothing.
        let source = source
            .replace("{% generation %}", "")
            .replace("{%- generation -%}", "")
            .replace("{% endgeneration %}", "")
            .replace("{%- endgeneration -%}", "");
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(10_000_000));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<(), minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned(TEMPLATE, source)
            .map_err(|error| PromptError::Template(one_line(&error.to_string())))?;
        Ok(Self { environment })
    }

    /// The text of a chat, up to where the assistant speaks.
    ///
    /// # Errors
    /// [`PromptError::Render`].
    pub fn render(&self, messages: &[Message]) -> Result<String, PromptError> {
        self.environment
            .get_template(TEMPLATE)
            .and_then(|template| template.render(context! { messages, add_generation_prompt => true }))
            .map_err(|error| PromptError::Render(one_line(&error.to_string())))
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
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
