//! Where chat templates are found, and what they may use.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and names why it skips")]

mod common;

use std::fs;

use common::{copy, edit_json};
use phase_model::{ChatMessage, Checkpoint, GenerationPrompt};
use serde_json::json;

fn with_template(template: &str) -> tempfile::TempDir {
    let dir = copy("tiny/llama-gqa-tied");
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    dir
}

fn render(template: &str, messages: &[ChatMessage]) -> Result<String, String> {
    let dir = with_template(template);
    let template = Checkpoint::open(dir.path()).unwrap().chat_template().unwrap();
    template.render(messages, GenerationPrompt::Omit).map_err(|e| e.to_string())
}

#[test]
fn a_file_of_its_own_comes_first() {
    let dir = with_template("mine");
    let template = Checkpoint::open(dir.path()).unwrap().chat_template().unwrap();
    assert_eq!((template.source(), template.render(&[], GenerationPrompt::Add).unwrap().as_str()), ("mine", "mine"));
}

#[test]
fn of_several_templates_the_default_is_taken() {
    let dir = copy("tiny/llama-gqa-tied");
    let config = dir.path().join("tokenizer_config.json");
    edit_json(&config, |json| {
        json["chat_template"] = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]);
    });
    let template = Checkpoint::open(dir.path()).unwrap().chat_template().unwrap();
    assert_eq!(template.render(&[], GenerationPrompt::Add).unwrap(), "plain");
    edit_json(&config, |json| json["chat_template"] = json!([{"name": "tool_use", "template": "tools"}]));
    let error = Checkpoint::open(dir.path()).unwrap().chat_template().unwrap_err();
    assert!(error.to_string().contains("default"), "{error}");
}

#[test]
fn templates_use_python_methods_loops_and_special_tokens() {
    let template = "{{ bos_token }}{%- for m in messages -%}
        {%- if m.role == 'tool' %}{% continue %}{% endif -%}
        {%- if loop.first %}[{% endif -%}
        {{ m['content'].strip().split(' ')[-1] | upper }}{{ ',' if not loop.last else ']' }}
    {%- endfor %}{{ messages[0].get('name', '?') }}{{ messages[1:] | length }}";
    let messages = [ChatMessage::user(" a b "), ChatMessage::new("tool", "x"), ChatMessage::assistant("c d")];
    assert_eq!(render(template, &messages).unwrap(), "<|im_start|>[B,D]?2");
}

#[test]
fn a_refusal_carries_the_templates_words() {
    let template = "{{ raise_exception('roles must alternate') }}";
    assert!(render(template, &[]).unwrap_err().contains("roles must alternate"));
}

#[test]
fn the_date_is_known_only_when_it_is_given() {
    let dir = with_template("{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}");
    let template = Checkpoint::open(dir.path()).unwrap().chat_template().unwrap();
    assert_eq!(template.render(&[], GenerationPrompt::Add).unwrap(), "26 Jul 2024");
    assert_eq!(template.with_date(951_782_400).render(&[], GenerationPrompt::Add).unwrap(), "29 Feb 2000");
}

#[test]
fn variables_reach_the_template_in_their_order() {
    let dir = with_template("{{ tools | tojson }}{{ enable_thinking }}");
    let template = Checkpoint::open(dir.path()).unwrap().chat_template().unwrap();
    let template = template.with_variable("tools", json!([{"name": "z", "a": 1}])).with_variable("enable_thinking", json!(false));
    let text = template.render(&[], GenerationPrompt::Add).unwrap();
    assert!(text == "[{\"name\": \"z\", \"a\": 1}]False" || text == "[{\"name\": \"z\", \"a\": 1}]false", "{text}");
}
