//! The description of the local APIs beside what a daemon and a rendezvous server do: every route
//! that is described is called, and takes and answers what its description says, neither more nor
//! less.

mod support;

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;
use support::http::Answer;
use support::{Home, Story, mutual, wait_for, write_file};

/// Whatever is asked is answered within this time, or never.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// One process, with its own description of its API.
struct Described {
    socket: PathBuf,
    document: Value,
    /// Routes that have answered well.
    seen: BTreeSet<(String, String)>,
}

impl Described {
    fn new(socket: PathBuf) -> Described {
        let mut described = Described { socket, document: Value::Null, seen: BTreeSet::new() };
        let answer = described.ask("get", "/v1/openapi.json", "", b"");
        assert_eq!(answer.status, 200);
        let mut document: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(document["openapi"], "3.1.1");
        close(&mut document);
        described.document = document;
        described
    }

    /// Sends a request, without waiting for the end of its answer.
    fn open(
        &self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        // Of version 1.0, so that bodies are not in chunks; it knows no upgrade.
        let version = if headers.contains("Upgrade") { "1.1" } else { "1.0" };
        let (method, length) = (method.to_uppercase(), body.len());
        let head = format!(
            "{method} {target} HTTP/{version}\r\nHost: pilot\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        BufReader::new(stream)
    }

    fn ask(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> Answer {
        let mut stream = self.open(method, target, headers, body);
        Answer::read(&mut stream)
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        let operation = &self.document["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not described");
        operation
    }

    /// A value is exactly what a schema of the document says.
    fn check(&self, what: &str, schema: &Value, value: &Value) {
        let errors = self.errors(schema, value);
        assert!(errors.is_empty(), "{what}: {value:#} is not as described: {errors:#?}");
    }

    fn errors(&self, schema: &Value, value: &Value) -> Vec<String> {
        let root = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": self.document["components"],
            "allOf": [schema],
        });
        let validator = jsonschema::validator_for(&root).unwrap();
        let errors = validator.iter_errors(value);
        errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    /// Calls a route with a JSON body; the data of its answer.
    #[track_caller]
    fn call(&mut self, method: &str, path: &str, target: &str, body: Value) -> Value {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.send(method, path, target, "", &body)
    }

    #[track_caller]
    fn send(&mut self, method: &str, path: &str, target: &str, head: &str, body: &[u8]) -> Value {
        let answer = self.ask(method, target, head, body);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let what = format!("{method} {target}");
        assert_eq!(answer.status, 200, "{what}: {text}");
        let content = &self.operation(method, path)["responses"]["200"]["content"];
        let (media, last) = (answer.header("content-type"), text.lines().last().unwrap());
        let described = content.get(media).unwrap_or_else(|| panic!("{what} answers {media}"));
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            let schema = match described.get("x-parts") {
                Some(parts) => &parts["line"],
                None => &described["schema"],
            };
            self.check(&what, schema, &value);
        }
        self.seen.insert((method.to_owned(), path.to_owned()));
        serde_json::from_str::<Value>(last).unwrap()["data"].take()
    }

    /// Calls a route that becomes a stream; its number, port and bytes.
    fn upgrade(&mut self, path: &str, target: &str) -> (String, String, BufReader<UnixStream>) {
        let mut stream = self.open("post", target, UPGRADE, b"");
        let answer = Answer::head(&mut stream);
        assert_eq!(answer.status, 101, "{target}");
        let headers = &self.operation("post", path)["responses"]["101"]["headers"];
        for name in headers.as_object().unwrap().keys() {
            assert!(answer.header(name).parse::<u64>().is_ok(), "{name}");
        }
        self.seen.insert(("post".to_owned(), path.to_owned()));
        let (id, port) = (answer.header("pilot-stream"), answer.header("pilot-port"));
        (id.to_owned(), port.to_owned(), stream)
    }

    /// What a wrong request is told: it names what would have been right.
    fn complaint(&self, method: &str, target: &str, head: &str, body: &str) -> String {
        let answer = self.ask(method, target, head, body.as_bytes());
        let envelope: Value = serde_json::from_slice(&answer.body).unwrap();
        let what = format!("{method} {target} {body}");
        let operation = &self.document["components"]["responses"]["Failed"];
        let schema = &operation["content"]["application/json"]["schema"];
        self.check(&what, schema, &envelope);
        let code = envelope["code"].as_str().unwrap();
        assert_eq!(schema["x-statuses"][code], answer.status, "{what}");
        envelope["message"].as_str().unwrap().to_owned()
    }

    /// Each route takes the fields and parameters that are described, and no others.
    fn check_requests(&self) {
        for (path, methods) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let fields = Fields::of_query(operation);
                if !fields.types.is_empty() {
                    let head = if operation["responses"]["101"].is_object() { UPGRADE } else { "" };
                    fields.check(&format!("{method} {path}?"), |query| {
                        let pairs = query.iter().map(|(name, value)| {
                            format!("{name}={}", value.as_str().unwrap_or("0"))
                        });
                        let query = pairs.collect::<Vec<_>>().join("&");
                        self.complaint(method, &format!("{}?{query}", filled(path)), head, "")
                    });
                }
                let body = &operation["requestBody"]["content"]["application/json"]["schema"];
                if body.is_object() {
                    let (fields, what) = (Fields::of_body(body), format!("{method} {path}"));
                    let ask = |body: &Map<String, Value>| {
                        let body = json!(body).to_string();
                        self.complaint(method, &filled(path), "", &body)
                    };
                    fields.check(&what, ask);
                    fields.check_types(&what, ask);
                }
            }
        }
    }

    /// All that is described has been called.
    fn check_seen(&self) {
        for (path, methods) in self.document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                let route = (method.clone(), path.clone());
                assert!(self.seen.contains(&route), "{method} {path} is described, and not tried");
            }
        }
    }
}

const UPGRADE: &str = "Connection: upgrade\r\nUpgrade: pilot-stream\r\n";

/// A path with something in each place.
fn filled(path: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "1".to_owned() } else { part.to_owned() };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// Objects have no other fields than those that are described.
fn close(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(close),
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            let is_object = fields.get("type").is_some_and(|t| t == "object");
            if is_object && fields.contains_key("properties") {
                fields.insert("additionalProperties".to_owned(), false.into());
            }
        }
        _ => {}
    }
}

/// Fields of a body or parameters of a query, as they are described.
struct Fields {
    /// The type of each.
    types: Vec<(String, Value)>,
    required: BTreeSet<String>,
}

impl Fields {
    fn of_body(schema: &Value) -> Fields {
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let required = required.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        let types = properties.iter().map(|(name, s)| (name.clone(), s["type"].clone()));
        Fields { types: types.collect(), required }
    }

    fn of_query(operation: &Value) -> Fields {
        let parameters = operation["parameters"].as_array().unwrap();
        let query: Vec<_> = parameters.iter().filter(|p| p["in"] == "query").collect();
        let name = |p: &&Value| p["name"].as_str().unwrap().to_owned();
        let required = query.iter().filter(|p| p["required"] == true).map(name).collect();
        let types = query.iter().map(|p| (name(p), p["schema"]["type"].clone())).collect();
        Fields { types, required }
    }

    fn type_of(&self, name: &str) -> String {
        let (_, of) = self.types.iter().find(|(known, _)| known == name).unwrap();
        // One that may be absent may be null, too.
        let of = of.as_array().and_then(|types| types.first()).unwrap_or(of);
        of.as_str().unwrap().to_owned()
    }

    /// Lets the process itself say which fields it knows and which it needs.
    fn check(&self, what: &str, ask: impl Fn(&Map<String, Value>) -> String) {
        let unknown = Map::from_iter([("no-field".to_owned(), json!(0))]);
        let message = ask(&unknown);
        assert!(message.contains("unknown field `no-field`"), "{what}: {message}");
        let known: BTreeSet<&str> = message.split('`').skip(3).step_by(2).collect();
        let described: BTreeSet<&str> = self.types.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(known, described, "{what}: what it knows, and what is described");

        let (mut given, mut needed) = (Map::new(), BTreeSet::new());
        while needed.len() < self.required.len() {
            let message = ask(&given);
            let missing =
                message.split_once("missing field `").and_then(|(_, m)| m.split_once('`'));
            let (name, _) = missing.unwrap_or_else(|| panic!("{what} needs less: {message}"));
            assert!(needed.insert(name.to_owned()), "{what}: {name} was given: {message}");
            let value = match self.type_of(name).as_str() {
                "string" => json!("x"),
                "array" => json!([]),
                _ => json!(0),
            };
            given.insert(name.to_owned(), value);
        }
        assert_eq!(needed, self.required, "{what}: what it needs, and what is described");
    }

    /// Lets it say what each field has to be.
    fn check_types(&self, what: &str, ask: impl Fn(&Map<String, Value>) -> String) {
        for (name, _) in &self.types {
            let message = ask(&Map::from_iter([(name.clone(), json!({}))]));
            let expected = match self.type_of(name).as_str() {
                "string" => "expected a string",
                "boolean" => "expected a boolean",
                "array" => "expected a sequence",
                "integer" => "expected u",
                other => panic!("{what}: {name} is {other}"),
            };
            assert!(message.contains(expected), "{what}: {name} is not so: {message}");
        }
    }
}

/// Two agents that trust each other, and two that nobody knows.
struct Scene {
    _server: Home,
    agents: [Home; 4],
    addresses: [String; 4],
}

fn scene() -> Scene {
    let (server, registry, beacon) = Home::rendezvous();
    let agents = [(); 4].map(|()| Home::agent(&registry, &beacon).0);
    let addresses = [0, 1, 2, 3]
        .map(|n: usize| agents[n].data(&["info"])["address"].as_str().unwrap().to_owned());
    agents[1].ok(&["trust", "request", &addresses[0]]);
    support::request_of(&agents[0], &addresses[1]);
    agents[0].ok(&["trust", "approve", &addresses[1]]);
    mutual(&agents[0]);
    mutual(&agents[1]);
    Scene { _server: server, agents, addresses }
}

#[test]
fn a_daemon_does_what_its_description_says() {
    let mut story = Story::begin("openapi", Duration::from_secs(400));
    let scene = scene();
    let mut api = Described::new(scene.agents[0].path.join("pilot.sock"));
    story.done("scene");
    api.check_requests();
    story.done("requests");
    about_this_agent(&mut api, &scene);
    about_trust(&mut api, &scene);
    story.done("names and trust");
    exchange(&mut api, &scene);
    story.done("messages and files");
    tasks(&mut api, &scene);
    story.done("tasks");
    events(&mut api);
    streams(&mut api, &scene);
    story.done("events and streams");
    programs(&mut api);
    // What waits: the other side is gone.
    let [_, b, ..] = &scene.agents;
    b.ok(&["daemon", "stop"]);
    let wish = json!({"to": scene.addresses[1], "text": "later", "wait_ms": 0});
    let queued = api.call("post", "/v1/messages", "/v1/messages", wish);
    api.call("get", "/v1/outbox", "/v1/outbox", Value::Null);
    let item = format!("/v1/outbox/{}", queued["id"].as_str().unwrap());
    api.call("get", "/v1/outbox/{id}", &format!("{item}?wait_ms=100"), Value::Null);
    assert_eq!(api.call("delete", "/v1/outbox/{id}", &item, Value::Null)["state"], "cancelled");
    api.call("post", "/v1/stop", "/v1/stop", Value::Null);
    api.check_seen();
    story.done("the rest");
}

#[test]
fn a_rendezvous_server_does_what_its_description_says() {
    let (server, _, _) = Home::rendezvous();
    let mut api = Described::new(server.path.join("rendezvous/pilot.sock"));
    api.check_requests();
    let status = api.call("get", "/v1/status", "/v1/status", Value::Null);
    // A field more, one less, and one of another type are noticed.
    let schema = json!({"$ref": "#/components/schemas/RendezvousStatus"});
    api.check("status", &schema, &status);
    let (mut more, mut less, mut other) = (status.clone(), status.clone(), status);
    more["more"] = json!(1);
    less.as_object_mut().unwrap().remove("pid");
    other["pid"] = json!("7");
    for wrong in [more, less, other] {
        assert!(!api.errors(&schema, &wrong).is_empty(), "{wrong}");
    }
    api.call("post", "/v1/export", "/v1/export", Value::Null);
    api.call("post", "/v1/stop", "/v1/stop", Value::Null);
    api.check_seen();
}

fn about_this_agent(api: &mut Described, scene: &Scene) {
    let [a, b, ..] = &scene.addresses;
    for path in ["/v1/status", "/v1/info"] {
        api.call("get", path, path, Value::Null);
    }
    api.call("put", "/v1/networks/{network}", "/v1/networks/1", Value::Null);
    let hostname = json!({"hostname": "described", "network": 1});
    api.call("put", "/v1/hostname", "/v1/hostname", hostname);
    api.call("put", "/v1/visibility", "/v1/visibility", json!({"visibility": "public"}));
    api.call("put", "/v1/tags", "/v1/tags", json!({"tags": ["role=described"]}));
    let found =
        api.call("get", "/v1/resolve", "/v1/resolve?agent=described&network=1", Value::Null);
    assert_eq!(found["hostname"], "described");
    let reputation = api.call("get", "/v1/reputation", "/v1/reputation", Value::Null);
    assert_eq!(reputation["score"], 0);
    let target = "/v1/discover?tags=role=described&network=1";
    let found = api.call("get", "/v1/discover", target, Value::Null);
    assert_eq!(found["agents"].as_array().unwrap().len(), 1, "{found}");
    api.call("get", "/v1/info", "/v1/info", Value::Null);
    api.call("delete", "/v1/hostname", "/v1/hostname?network=1", Value::Null);
    api.call("delete", "/v1/networks/{network}", "/v1/networks/1", Value::Null);
    // A path, so that there is something to tell.
    let echo = json!({"to": b, "count": 2, "bytes": 1000, "network": 0});
    let report = api.call("post", "/v1/echo", "/v1/echo", echo);
    assert_eq!(report["rtts_us"].as_array().unwrap().len(), 2);
    let peers = api.call("get", "/v1/peers", "/v1/peers", Value::Null);
    assert_eq!(peers["peers"].as_array().unwrap().len(), 1, "{peers}");
    let why = api.call("get", "/v1/why", &format!("/v1/why?agent={b}"), Value::Null);
    assert!(!why["paths"].as_array().unwrap().is_empty(), "{why}");
    api.call("get", "/v1/resolve", &format!("/v1/resolve?agent={a}"), Value::Null);
}

fn about_trust(api: &mut Described, scene: &Scene) {
    let [a, b, c, d] = &scene.addresses;
    let asked = |api: &mut Described, stranger: &Home| {
        stranger.ok(&["trust", "request", a, "--justification", "to be described"]);
        wait_for("the request arrives", || {
            let pending = api.call("get", "/v1/trust/pending", "/v1/trust/pending", Value::Null);
            !pending["requests"].as_array().unwrap().is_empty()
        });
    };
    asked(api, &scene.agents[2]);
    let allow = json!({"address": c, "allow": "echo,ports=8000-8100"});
    api.call("post", "/v1/trust/approve", "/v1/trust/approve", allow);
    api.call("post", "/v1/trust/allow", "/v1/trust/allow", json!({"address": c, "allow": "echo"}));
    let trusted = api.call("get", "/v1/trust", "/v1/trust", Value::Null);
    assert_eq!(trusted["peers"].as_array().unwrap().len(), 2, "{trusted}");
    api.call("post", "/v1/trust/revoke", "/v1/trust/revoke", json!({"address": c}));
    asked(api, &scene.agents[3]);
    let refuse = json!({"address": d, "reason": "a test"});
    api.call("post", "/v1/trust/refuse", "/v1/trust/refuse", refuse);
    let again = json!({"address": b, "justification": "we know each other"});
    let state = api.call("post", "/v1/trust/requests", "/v1/trust/requests", again);
    assert_eq!(state["state"], "approved");
}

fn exchange(api: &mut Described, scene: &Scene) {
    let [a, b, ..] = &scene.addresses;
    let other = &scene.agents[1];
    let wish = json!({"to": b, "text": "hello", "wait_ms": 60000});
    let sent = api.call("post", "/v1/messages", "/v1/messages", wish);
    assert_eq!(sent["state"], "delivered");
    let all = api.call("get", "/v1/outbox", "/v1/outbox?all=true&limit=5&after=0", Value::Null);
    assert_eq!(all["messages"].as_array().unwrap().len(), 1);
    let wish = json!({"to": b, "base64": "AP8=", "kind": "binary", "wait_ms": 60000});
    assert_eq!(api.call("post", "/v1/messages", "/v1/messages", wish)["bytes"], 2);

    other.ok(&["send-message", a, "hello back"]);
    let inbox = api.call("get", "/v1/inbox", "/v1/inbox?wait_ms=60000", Value::Null);
    let seq = inbox["messages"][0]["seq"].clone();
    followed(api, scene, &seq);
    let message = format!("/v1/inbox/{seq}");
    api.call("delete", "/v1/inbox/{seq}", &message, Value::Null);

    let path = other.beside("described.bin");
    write_file(&path, 700_000, 1);
    other.ok(&["send-file", a, path.to_str().unwrap(), "--note", "a word"]);
    let received = api.call("get", "/v1/received", "/v1/received", Value::Null);
    assert_eq!(received["files"][0]["bytes"], 700_000);
    let target = format!("/v1/received/{b}/{}", received["files"][0]["id"].as_str().unwrap());
    let one = api.call("get", "/v1/received/{from}/{id}", &target, Value::Null);
    assert_eq!(one, received["files"][0]);
    let bytes = std::fs::read(&path).unwrap();
    let target = format!("/v1/files?to={b}&name=back.bin&note=x&modified_ns=1&timeout_ms=60000");
    let sent = api.send("post", "/v1/files", &target, "", &bytes);
    assert_eq!(sent["bytes"], 700_000);
    let lines = "Accept: application/x-ndjson\r\n";
    let target = format!("/v1/files?to={b}&name=lines.bin");
    assert_eq!(api.send("post", "/v1/files", &target, lines, &bytes)["bytes"], 700_000);
    // A directory with one file, through the outbox.
    let target = format!("/v1/files?to={b}&name=tree&kind=directory&queue=true");
    let kept = api.send("post", "/v1/files", &target, "", b"\x02\x01a\0\0\0\0\0\0\0\x01x\0");
    let target = format!("/v1/outbox/{}?wait_ms=60000", kept["id"].as_str().unwrap());
    let status = api.call("get", "/v1/outbox/{id}", &target, Value::Null);
    assert_eq!(status["state"], "delivered", "{status}");
}

/// Messages as events, from the first on and from behind it.
fn followed(api: &Described, scene: &Scene, first: &Value) {
    let content = &api.operation("get", "/v1/inbox")["responses"]["200"]["content"];
    let parts = &content["text/event-stream"]["x-parts"];
    let accept = "Accept: text/event-stream\r\n";
    let mut all = api.open("get", "/v1/inbox", accept, b"");
    let behind = format!("{accept}Last-Event-ID: {first}\r\n");
    let mut later = api.open("get", "/v1/inbox", &behind, b"");
    for stream in [&mut all, &mut later] {
        let answer = Answer::head(stream);
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/event-stream"));
    }
    let next = |stream: &mut BufReader<UnixStream>| {
        let (name, message) = server_sent(stream);
        assert_eq!(name, "message");
        api.check("/v1/inbox", &parts["message"], &message);
        message
    };
    assert_eq!(&next(&mut all)["seq"], first);
    scene.agents[1].ok(&["send-message", &scene.addresses[0], "followed"]);
    for stream in [&mut all, &mut later] {
        assert_eq!(next(stream)["text"], "followed");
    }
    let both = api.complaint("get", "/v1/inbox?wait_ms=1", accept, "");
    assert!(both.contains("wait_ms"), "{both}");
}

/// The next server-sent event that is no comment: its name and its data.
fn server_sent(stream: &mut BufReader<UnixStream>) -> (String, Value) {
    let mut name = String::new();
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "it ended");
        if let Some(event) = line.strip_prefix("event: ") {
            name = event.trim_end().to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            return (name, serde_json::from_str(data).unwrap());
        }
    }
}

fn events(api: &mut Described) {
    let own = api.call("get", "/v1/info", "/v1/info", Value::Null)["address"].clone();
    let own = own.as_str().unwrap();
    let path = "/v1/events/subscribe";
    let target = format!("{path}?to={own}&pattern=a.*&pattern=b&retained=true");
    let mut stream = api.open("get", &target, "", b"");
    let answer = Answer::head(&mut stream);
    let media = "text/event-stream";
    assert_eq!((answer.status, answer.header("content-type")), (200, media));
    let content = &api.operation("get", path)["responses"]["200"]["content"][media];
    let parts = content["x-parts"].clone();
    let names: Vec<&String> = parts.as_object().unwrap().keys().collect();
    assert_eq!(names, ["dropped", "end", "event", "subscribed"]);
    let (name, data) = server_sent(&mut stream);
    assert_eq!(name, "subscribed");
    api.check(path, &parts[&name], &data);
    let publish = "/v1/events/publish";
    for content in [json!({"text": "one"}), json!({"base64": "/wAB"}), json!({"lines": ["two"]})] {
        let mut wish = json!({"to": own, "topic": "a.b", "retain": true, "acknowledge": true});
        wish.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
        assert_eq!(api.call("post", publish, publish, wish)["queued"], 1);
        let (name, data) = server_sent(&mut stream);
        assert_eq!(name, "event");
        api.check(path, &parts[&name], &data);
    }
    let stats = api.call("get", "/v1/events", "/v1/events", Value::Null);
    assert_eq!(stats["published"], 3);
    api.seen.insert(("get".to_owned(), path.to_owned()));
}

fn tasks(api: &mut Described, scene: &Scene) {
    let [a, b, ..] = &scene.addresses;
    let other = &scene.agents[1];
    let path = "/v1/tasks/events";
    let mut stream = api.open("get", &format!("{path}?role=worker"), "", b"");
    let answer = Answer::head(&mut stream);
    let media = "text/event-stream";
    assert_eq!((answer.status, answer.header("content-type")), (200, media));
    let content = &api.operation("get", path)["responses"]["200"]["content"][media];
    let parts = content["x-parts"].clone();
    let names: Vec<&String> = parts.as_object().unwrap().keys().collect();
    assert_eq!(names, ["end", "missed", "task"]);
    let file = other.beside("task.bin");
    write_file(&file, 1000, 2);
    let file = file.to_str().unwrap();
    let id = other.ok(&["task", "submit", a, "--description", "describe", "--file", file]);
    let (name, data) = server_sent(&mut stream);
    assert_eq!((name.as_str(), &data["id"]), ("task", &json!(id)));
    api.check(path, &parts[&name], &data);
    api.seen.insert(("get".to_owned(), path.to_owned()));

    let listed = "/v1/tasks?role=worker&open=true&limit=5&since=0&wait_ms=60000";
    let all = api.call("get", "/v1/tasks", listed, Value::Null);
    assert_eq!(all["tasks"][0]["state"], "new", "{all}");
    for (step, body) in [
        ("accept", json!({})),
        ("start", json!({"served": true})),
        ("progress", json!({"text": "half"})),
        ("complete", json!({"text": "done", "files": []})),
    ] {
        let target = format!("/v1/tasks/{id}/{step}");
        api.call("post", "/v1/tasks/{id}/{step}", &target, body);
    }
    wait_for("it has a receipt", || {
        let target = format!("/v1/tasks/{id}?wait_ms=60000");
        api.call("get", "/v1/tasks/{id}", &target, Value::Null)["receipt"].is_object()
    });
    let hash = "00".repeat(32);
    let file = json!({"id": "11".repeat(16), "name": "x", "bytes": 7, "sha256": hash});
    let wish = json!({"to": b, "description": "back", "files": [file], "wait_ms": 60000});
    let task = api.call("post", "/v1/tasks", "/v1/tasks", wish);
    assert_eq!((&task["delivered"], &task["files"][0]["path"]), (&json!(true), &Value::Null));
    let id = task["id"].as_str().unwrap();
    other.ok(&["task", "decline", id, "--reason", "no"]);
    let target = format!("/v1/tasks/{id}?wait_ms=60000");
    let over = api.call("get", "/v1/tasks/{id}", &target, Value::Null);
    assert_eq!(over["reason"]["message"], "no", "{over}");
}

fn streams(api: &mut Described, scene: &Scene) {
    let mut other = Described::new(scene.agents[1].path.join("pilot.sock"));
    let (from, port, mut taker) = other.upgrade("/v1/listen", "/v1/listen?port=0");
    let target = format!("/v1/connect?to={}&port={port}&timeout_ms=60000", scene.addresses[1]);
    let (to, _, mut caller) = api.upgrade("/v1/connect", &target);
    let mut first = String::new();
    taker.read_line(&mut first).unwrap();
    let envelope: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(envelope["data"]["peer"], scene.addresses[0]);
    let open = api.call("get", "/v1/connections", "/v1/connections", Value::Null);
    assert!(!open["connections"].as_array().unwrap().is_empty());
    caller.get_mut().write_all(b"some bytes").unwrap();
    for stream in [&caller, &taker] {
        stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    }
    let mut bytes = Vec::new();
    taker.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"some bytes");
    caller.read_to_end(&mut bytes).unwrap();
    api.call("get", "/v1/streams/{id}", &format!("/v1/streams/{to}"), Value::Null);
    other.call("get", "/v1/streams/{id}", &format!("/v1/streams/{from}"), Value::Null);
    // It has ended well, and is as it is.
    api.call("delete", "/v1/streams/{id}", &format!("/v1/streams/{to}"), Value::Null);
    // The same description holds for both.
    api.seen.extend(other.seen);
}

fn programs(api: &mut Described) {
    let forward = "/v1/forwards/{local}";
    let set = api.call("put", forward, "/v1/forwards/0", json!({"to": "somebody:80"}));
    api.call("get", "/v1/forwards", "/v1/forwards", Value::Null);
    let target = format!("/v1/forwards/{}", set["local"].as_str().unwrap());
    api.call("delete", forward, &target, Value::Null);
    let expose = "/v1/exposes/{port}";
    api.call("put", expose, "/v1/exposes/80", json!({"to": "127.0.0.1:1"}));
    api.call("get", "/v1/exposes", "/v1/exposes", Value::Null);
    api.call("delete", expose, "/v1/exposes/80", Value::Null);
    api.call("get", "/v1/proxy", "/v1/proxy", Value::Null);
    api.call("put", "/v1/proxy", "/v1/proxy", json!({"local": "127.0.0.1:0"}));
    api.call("get", "/v1/proxy", "/v1/proxy", Value::Null);
    api.call("delete", "/v1/proxy", "/v1/proxy", Value::Null);
}
