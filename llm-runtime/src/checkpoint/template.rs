//! The chat template of a folder.

use std::fmt::Write;
use std::path::Path;

use assay_audit::prompt::{ChatTemplate, PromptError};
use serde_json::Value;

use super::error::CheckpointError;
use super::{optional, optional_json};

pub(super) const CONFIG: &str = "tokenizer_config.json";
pub(super) const FILE: &str = "chat_template.jinja";

/// Template variables that `tokenizer_config.json` defines and models' templates use.
const SPECIAL_TOKENS: [&str; 2] = ["bos_token", "eos_token"];

/// The template in `chat_template.jinja`, else the one in `tokenizer_config.json`, if there is any. One that does not
/// parse would be committed to and never served.
pub(super) fn read(folder: &Path) -> Result<Option<String>, CheckpointError> {
    let config_path = folder.join(CONFIG);
    let config = optional_json(&config_path)?.unwrap_or(Value::Null);
    let file_path = folder.join(FILE);
    let (path, source) = match optional(&file_path)? {
        Some(bytes) => (file_path, String::from_utf8(bytes).map(Some).map_err(|error| error.to_string())),
        None => (config_path, from_config(&config).map_err(str::to_owned)),
    };
    let checked = source.and_then(|source| {
        let source = source.map(|source| with_special_tokens(&config, &source));
        match source.as_ref().map(|source| ChatTemplate::from_bytes(source.as_bytes())) {
            Some(Err(PromptError::Template(reason))) => Err(reason),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(_)) | None => Ok(source),
        }
    });
    checked.map_err(|reason| CheckpointError::Template { path, reason })
}

/// The template as a text, or the one named `default` of a list.
fn from_config(config: &Value) -> Result<Option<String>, &'static str> {
    let text = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(named)) => named
            .iter()
            .find(|named| named.get("name").is_some_and(|name| name == "default"))
            .and_then(|named| named.get("template")),
        Some(other) => Some(other),
    };
    text.and_then(Value::as_str)
        .map(|text| Some(text.to_owned()))
        .ok_or("neither a text nor a list with a \"default\" template")
}

/// Sets the special tokens that a template uses on a line before it. The newline ends a block and so
/// prints nothing.
fn with_special_tokens(config: &Value, source: &str) -> String {
    let mut head = String::new();
    for name in SPECIAL_TOKENS.into_iter().filter(|name| source.contains(name)) {
        let token = config.get(name).map(|token| token.get("content").unwrap_or(token));
        if let Some(token) = token.and_then(Value::as_str) {
            // A JSON string is a Jinja string.
            write!(head, "{{% set {name} = {} %}}", Value::from(token)).expect("a string takes all that is written");
        }
    }
    if head.is_empty() { source.to_owned() } else { format!("{head}\n{source}") }
}

#[cfg(test)]
mod tests {
    use assay_audit::prompt::Message;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_is_a_text_or_the_default_of_a_list() {
        let list = json!([{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]);
        assert_eq!(from_config(&json!({"chat_template": "x"})), Ok(Some("x".to_owned())));
        assert_eq!(from_config(&json!({"chat_template": list})), Ok(Some("d".to_owned())));
        assert_eq!(from_config(&json!({})), Ok(None));
        for neither in [json!(3), json!([])] {
            assert!(from_config(&json!({"chat_template": neither})).unwrap_err().contains("neither a text"));
        }
    }

    #[test]
    fn special_tokens_render_without_the_tokenizer_configuration() {
        let config = json!({"bos_token": {"content": "<\"s\">"}, "eos_token": "</s>"});
        let source = with_special_tokens(&config, "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}");
        assert!(!source.contains("eos_token"), "{source}");
        let template = ChatTemplate::from_bytes(source.as_bytes()).unwrap();
        let message = Message { role: "user".to_owned(), content: "hi".to_owned() };
        assert_eq!(template.render(&[message]).unwrap(), "<\"s\">hi");
    }

    #[test]
    fn a_template_without_special_tokens_is_left_as_it_is() {
        assert_eq!(with_special_tokens(&json!({"bos_token": "<s>"}), "{{ x }}"), "{{ x }}");
    }
}
