//! A JSON schema as Markdown: a section for each object, a row for each field.

use std::fmt::Write as _;

use serde_json::Value;

/// The sections of a schema of what people write.
pub(super) fn page(schema: &Value, title: &str) -> String {
    let mut page = Page { schema, text: String::new(), is_answer: false };
    page.object("", title, "", schema);
    page.text
}

/// The sections of a schema of what the program answers: nothing is left out, but some is `null`.
pub(super) fn answer(schema: &Value, title: &str) -> String {
    let mut page = Page { schema, text: String::new(), is_answer: true };
    page.object("", title, schema["description"].as_str().unwrap_or_default(), schema);
    page.text
}

struct Page<'a> {
    schema: &'a Value,
    text: String,
    is_answer: bool,
}

impl<'a> Page<'a> {
    /// A section for the object at `path`, then those of what is in it.
    fn object(&mut self, path: &str, title: &str, about: &str, object: &'a Value) {
        let _ = write!(self.text, "## {title}\n\n");
        if !about.is_empty() {
            let _ = write!(self.text, "{about}\n\n");
        }
        let required = |name: &str| {
            object["required"].as_array().is_some_and(|names| names.iter().any(|known| known == name))
        };
        let mut fields: Vec<(&String, &'a Value)> =
            object["properties"].as_object().into_iter().flatten().collect();
        if self.is_answer {
            self.text += "| field | type | meaning |\n|---|---|---|\n";
        } else {
            // What must be given comes first; the others stay in order.
            fields.sort_by_key(|(name, _)| !required(name));
            self.text += "| field | type | default | meaning |\n|---|---|---|---|\n";
        }
        for (name, field) in &fields {
            let (kind, about) = (self.type_of(field), cell(&self.about(field)));
            let row = match self.is_answer {
                true if is_nullable(field) => format!("| `{name}` | {kind} or `null` | {about} |"),
                true => format!("| `{name}` | {kind} | {about} |"),
                false if required(name) => format!("| `{name}` | {kind} | *required* | {about} |"),
                false => format!("| `{name}` | {kind} | {} | {about} |", self.default(name, field)),
            };
            let _ = writeln!(self.text, "{row}");
        }
        self.text.push('\n');
        for (name, field) in fields {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            self.inner(&path, &self.about(field), field);
        }
    }

    /// The sections of a field that is not a single value.
    fn inner(&mut self, path: &str, about: &str, field: &'a Value) {
        let field = self.resolve(field);
        if field["properties"].is_object() {
            self.object(path, &format!("`{path}`"), about, field);
        } else if let Some(ways) = ways(field) {
            let one_of = format!("{about} One of:");
            let _ = write!(self.text, "## `{path}`\n\n{}\n\n", one_of.trim_start());
            for (name, way, has_fields) in &ways {
                let shape = if *has_fields { format!("`{name}: {{…}}`") } else { format!("`{name}`") };
                let _ = writeln!(self.text, "* {shape}: {}", self.about(way));
            }
            self.text.push('\n');
            for (name, way, has_fields) in ways {
                if has_fields {
                    self.inner(&format!("{path}.{name}"), &self.about(way), &way["properties"][&name]);
                }
            }
        } else if field["items"].is_object() && self.resolve(&field["items"])["properties"].is_object() {
            self.inner(&format!("{path}[]"), &self.about(&field["items"]), &field["items"]);
        }
    }

    /// The schema that a reference stands for, also within «this or nothing».
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let schema = match schema["anyOf"].as_array() {
            Some(either) => either.iter().find(|one| one["type"] != "null").unwrap_or(schema),
            None => schema,
        };
        match schema["$ref"].as_str() {
            Some(place) => self.schema.pointer(place.trim_start_matches('#')).unwrap_or(schema),
            None => schema,
        }
    }

    fn about(&self, schema: &'a Value) -> String {
        let own = &schema["description"];
        let text = if own.is_string() { own } else { &self.resolve(schema)["description"] };
        text.as_str().unwrap_or_default().replace('\n', " ")
    }

    fn type_of(&self, field: &'a Value) -> String {
        let resolved = self.resolve(field);
        if resolved["properties"].is_object() {
            return "section".into();
        }
        if let Some(words) = words(resolved) {
            return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        }
        if ways(resolved).is_some() {
            return "section".into();
        }
        let is = |kind: &str| {
            let types = &resolved["type"];
            types == kind || types.as_array().is_some_and(|types| types.iter().any(|known| known == kind))
        };
        if is("array") {
            let items = self.resolve(&resolved["items"]);
            if items["properties"].is_object() {
                return "list of sections".into();
            }
            return format!("list of {}", self.type_of(&resolved["items"]));
        }
        let about = resolved["description"].as_str().unwrap_or_default();
        match () {
            () if is("string") && about.starts_with("A length of time as") => "length of time",
            () if is("string") && resolved["format"] == "ip" => "IP address",
            () if is("string") => "text",
            () if is("integer") => "whole number",
            () if is("number") => "number",
            () if is("boolean") => "`true`, `false`",
            () => "value",
        }
        .into()
    }

    fn default(&self, name: &str, field: &'a Value) -> String {
        let resolved = self.resolve(field);
        let nested = resolved["properties"].is_object();
        match &field["default"] {
            Value::Object(way) if !nested => {
                way.keys().next().map_or_else(String::new, |name| format!("`{name}`"))
            }
            // What is a section of its own shows its defaults there.
            Value::Null | Value::Object(_) => "–".into(),
            Value::String(text) if text.is_empty() => "–".into(),
            Value::String(text) => format!("`{text}`"),
            Value::Number(bits) if name.ends_with("_mask") => {
                format!("`{:#010x}`", bits.as_u64().unwrap_or_default())
            }
            other => format!("`{other}`"),
        }
    }
}

/// Whether a field may be `null`.
fn is_nullable(field: &Value) -> bool {
    field["type"].as_array().is_some_and(|types| types.iter().any(|known| known == "null"))
}

/// The words of a field that is one of some words.
fn words(schema: &Value) -> Option<Vec<&str>> {
    schema["oneOf"].as_array()?.iter().map(|one| one["const"].as_str()).collect()
}

/// The ways of a field that is one of several: a word, or a section with a name.
fn ways(schema: &Value) -> Option<Vec<(String, &Value, bool)>> {
    fn way(one: &Value) -> Option<(String, &Value, bool)> {
        match one["const"].as_str() {
            Some(word) => Some((word.to_owned(), one, false)),
            None => one["properties"].as_object()?.keys().next().map(|name| (name.clone(), one, true)),
        }
    }
    schema["oneOf"].as_array()?.iter().map(way).collect()
}

/// A text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_has_no_defaults() {
        let schema = json!({
            "description": "An answer.",
            "properties": {
                "age": {"type": ["number", "null"], "description": "Seconds."},
                "nodes": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
            "$defs": {"Node": {"properties": {"name": {"type": "string"}}}},
        });
        expect![[r"
            ## Answer

            An answer.

            | field | type | meaning |
            |---|---|---|
            | `age` | number or `null` | Seconds. |
            | `nodes` | list of sections |  |

            ## `nodes[]`

            | field | type | meaning |
            |---|---|---|
            | `name` | text |  |

        "]]
        .assert_eq(&answer(&schema, "Answer"));
    }

    #[test]
    fn sections_rows_and_ways() {
        let schema = json!({
            "properties": {
                "rest": {"$ref": "#/$defs/Rest", "default": {"bits_mask": 255}},
                "name": {"type": "string", "description": "Its name;\nor a|b."},
                "how": {"$ref": "#/$defs/How", "default": "plain", "description": "How."},
                "many": {"type": "array", "items": {"$ref": "#/$defs/Rest"}},
            },
            "required": ["name"],
            "$defs": {
                "Rest": {"description": "The rest.", "properties": {
                    "bits_mask": {"type": "integer", "default": 255},
                    "word": {"anyOf": [{"$ref": "#/$defs/Word"}, {"type": "null"}], "default": null},
                }},
                "Word": {"description": "A word.", "oneOf": [
                    {"const": "a", "description": "First."}, {"const": "b", "description": "Second."},
                ]},
                "How": {"oneOf": [
                    {"const": "plain", "description": "Plainly."},
                    {"description": "Well.", "properties": {"well": {"properties": {"x": {"type": "number"}}}}},
                ]},
            },
        });
        expect![[r"
            ## Fields

            | field | type | default | meaning |
            |---|---|---|---|
            | `name` | text | *required* | Its name; or a\|b. |
            | `how` | section | `plain` | How. |
            | `many` | list of sections | – |  |
            | `rest` | section | – | The rest. |

            ## `how`

            How. One of:

            * `plain`: Plainly.
            * `well: {…}`: Well.

            ## `how.well`

            Well.

            | field | type | default | meaning |
            |---|---|---|---|
            | `x` | number | – |  |

            ## `many[]`

            The rest.

            | field | type | default | meaning |
            |---|---|---|---|
            | `bits_mask` | whole number | `0x000000ff` |  |
            | `word` | `a`, `b` | – | A word. |

            ## `many[].word`

            A word. One of:

            * `a`: First.
            * `b`: Second.

            ## `rest`

            The rest.

            | field | type | default | meaning |
            |---|---|---|---|
            | `bits_mask` | whole number | `0x000000ff` |  |
            | `word` | `a`, `b` | – | A word. |

            ## `rest.word`

            A word. One of:

            * `a`: First.
            * `b`: Second.

        "]]
        .assert_eq(&page(&schema, "Fields"));
    }
}
