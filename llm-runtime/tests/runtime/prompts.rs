//! Chats and texts become the same tokens here as with Hugging Face's libraries, which wrote the cases.

use std::fs;
use std::path::PathBuf;

use assay_audit::prompt::{ChatTemplate, Message, Prompt, Tokenizer, prompt_tokens};
use assay_commitments::TokenId;
use assay_commitments::rows::Profile;
use assay_llm_runtime::Checkpoint;
use assay_llm_runtime::synthetic::{self, Numbers};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

#[derive(Deserialize)]
struct Cases {
    templates: Vec<Template>,
    texts: Vec<Plain>,
    ids: Vec<Ids>,
    different: Vec<Different>,
}

#[derive(Deserialize)]
struct Template {
    name: String,
    tokenizer: String,
    tokenizer_config: Value,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Turn>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Outcome {
    Refused { refused: String },
    Rendered { text: String, tokens: Vec<u32> },
}

#[derive(Deserialize)]
struct Plain {
    tokenizer: String,
    text: String,
    tokens: Vec<u32>,
    decoded: String,
}

#[derive(Deserialize)]
struct Ids {
    tokenizer: String,
    tokens: Vec<u32>,
    decoded: String,
}

/// What the others render and we refuse.
#[derive(Deserialize)]
struct Different {
    source: String,
    messages: Vec<Turn>,
    refused: String,
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/families/templates")).join(file)
}

fn cases() -> Cases {
    serde_json::from_slice(&fs::read(path("cases.json")).unwrap()).unwrap()
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_bytes(&fs::read(path(&format!("{name}.tokenizer.json"))).unwrap()).unwrap()
}

fn ids(tokens: &[u32]) -> Vec<TokenId> {
    tokens.iter().copied().map(TokenId::new).collect()
}

fn messages(turns: Vec<Turn>) -> Vec<Message> {
    turns.into_iter().map(|turn| Message { role: turn.role, content: turn.content }).collect()
}

/// The template as a model folder with these files has it.
fn template(case: &Template) -> ChatTemplate {
    let folder = TempDir::new().unwrap();
    synthetic::write(&Numbers::TINY, 8, folder.path()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), case.tokenizer_config.to_string()).unwrap();
    fs::copy(path(&format!("{}.jinja", case.name)), folder.path().join("chat_template.jinja")).unwrap();
    let source = Checkpoint::load(folder.path(), Profile::Bf16V1).unwrap().chat_template.unwrap();
    ChatTemplate::from_bytes(source.as_bytes()).unwrap()
}

/// All that differs, so that one run tells of everything.
fn assert_none(differences: &[String]) {
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn chats_render_to_the_same_text_and_tokens() {
    let mut differences = Vec::new();
    for case in cases().templates {
        let (tokenizer, template) = (tokenizer(&case.tokenizer), template(&case));
        for chat in case.chats {
            let messages = messages(chat.messages);
            let rendered = template.render(&messages);
            let same = match (&chat.outcome, &rendered) {
                (Outcome::Refused { refused }, Err(error)) => error.to_string().contains(refused.as_str()),
                (Outcome::Rendered { text, tokens }, Ok(rendered)) => {
                    let prompt = prompt_tokens(&Prompt::Chat(messages), &tokenizer, Some(&template)).unwrap();
                    text == rendered && ids(tokens) == prompt
                }
                _ => false,
            };
            if !same {
                let expected = match chat.outcome {
                    Outcome::Refused { refused } => format!("a refusal: {refused}"),
                    Outcome::Rendered { text, .. } => text,
                };
                differences.push(format!("{}: expected {expected:?}\n      got {rendered:?}", case.name));
            }
        }
    }
    assert_none(&differences);
}

#[test]
fn texts_become_the_same_tokens_and_come_back_as_the_same_text() {
    let mut differences = Vec::new();
    for Plain { tokenizer: name, text, tokens, decoded } in cases().texts {
        let tokenizer = tokenizer(&name);
        let prompt = prompt_tokens(&Prompt::Text(text.clone()), &tokenizer, None).unwrap();
        if prompt != ids(&tokens) {
            differences.push(format!("{name}: {text:?} is {tokens:?}\n  not {prompt:?}"));
        }
        let back = tokenizer.decode(&ids(&tokens));
        if back != decoded {
            differences.push(format!("{name}: {tokens:?} is {decoded:?}\n  not {back:?}"));
        }
    }
    assert_none(&differences);
}

#[test]
fn any_tokens_have_the_same_text() {
    let mut differences = Vec::new();
    for Ids { tokenizer: name, tokens, decoded } in cases().ids {
        let back = tokenizer(&name).decode(&ids(&tokens));
        if back != decoded {
            differences.push(format!("{name}: {tokens:?} is {decoded:?}\n  not {back:?}"));
        }
    }
    assert_none(&differences);
}

#[test]
fn what_would_depend_on_the_day_or_cannot_be_bounded_is_refused_by_name() {
    for Different { source, messages: turns, refused } in cases().different {
        let rendered =
            ChatTemplate::from_bytes(source.as_bytes()).and_then(|template| template.render(&messages(turns)));
        let error = rendered.expect_err(&source).to_string();
        assert!(error.contains(&refused), "{source}: {error}");
    }
}
