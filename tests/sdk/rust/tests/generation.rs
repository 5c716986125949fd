//! Checkpoints, models, sessions and batches from Rust, on a student of a few steps.
use xhybrid::half::bf16;
use xhybrid::serde_json::json;
use xhybrid::{Checkpoint, DType, Job, Message, Model, PluginKind, Runtime, Sampler, Token};
use xhybrid_sdk_tests::{asked, empty_directory, models, question, runtime, student};

#[test]
fn the_runtime_lists_its_plugins_and_jobs() {
    let runtime = runtime();
    let plugins = runtime.plugins().unwrap();
    let cpu = plugins.iter().find(|plugin| plugin.name == "cpu").unwrap();
    assert_eq!(cpu.kind, PluginKind::Backend);
    assert!(cpu.score > 0 && cpu.path.exists());
    assert!(plugins.iter().any(|plugin| plugin.kind == PluginKind::Text));
    assert!(runtime.report().unwrap().is_object());
    assert!(runtime.job_kinds().unwrap().to_string().contains("distill"));
    assert!(runtime.job_schema("merge").unwrap()["options"].is_array());
}

#[test]
fn the_crate_has_the_release_of_the_library() {
    assert_eq!(xhybrid::release(), std::env::var("XHYBRID_TEST_VERSION").unwrap());
}

#[test]
fn tensors_have_names_shapes_and_elements() {
    let checkpoint = Checkpoint::open(&runtime(), models().join("teacher.xhy")).unwrap();
    checkpoint.verify().unwrap();
    let names: Vec<_> = checkpoint.tensor_names().collect();
    assert_eq!(names.len(), checkpoint.tensor_count());
    assert!(names.is_sorted());
    let embedding = checkpoint.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!((embedding.dtype(), embedding.shape()), (DType::Bf16, &[4096, 192][..]));
    assert_eq!(embedding.rows::<bf16>().unwrap().len(), 4096);
    assert_eq!(embedding.iter_f64().unwrap().count(), embedding.len());
    assert_eq!(embedding.bytes().len(), 2 * embedding.len());
    assert!(checkpoint.describe().unwrap().to_string().contains("model.embed_tokens.weight"));
}

#[test]
fn a_tensor_is_a_view_of_the_mapped_file_and_not_a_copy() {
    let checkpoint = Checkpoint::open(&runtime(), models().join("a.xhy")).unwrap();
    let first = checkpoint.tensor("model.norm.weight").unwrap().bytes().as_ptr();
    assert_eq!(checkpoint.tensor("model.norm.weight").unwrap().bytes().as_ptr(), first);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let holds = |line: &str| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        (address(from)?..address(to)?).contains(&(first as usize)).then_some(line.contains("a.xhy/"))
    };
    assert_eq!(maps.lines().find_map(holds), Some(true));
}

#[test]
fn text_survives_encoding_and_decoding() {
    let model = student(&runtime());
    for text in ["Tom has 12 apples.", "", "grüße 👋", "a\0b"] {
        assert_eq!(model.decode(&model.encode(text, false).unwrap()).unwrap(), text);
    }
}

#[test]
fn a_chat_keeps_every_character_of_a_message() {
    let model = student(&runtime());
    let content = "a \"quoted\"\\ line\nand\ta tab";
    assert!(model.chat(&[Message::user(content)], true).unwrap().contains(content));
}

#[test]
fn forward_gives_a_vocabulary_for_each_token_and_the_session_the_last_of_them() {
    let model = student(&runtime());
    let ids = question(&model);
    let all = model.forward(&ids, "logits").unwrap();
    assert_eq!(all.len(), ids.len() * model.vocab_size());
    let mut session = asked(&model);
    assert_eq!(session.position(), ids.len());
    let last = &all[all.len() - model.vocab_size()..];
    // Prefill and full forward sum in another order.
    assert!(session.logits().unwrap().iter().zip(last).all(|(a, b)| (a - b).abs() < 2e-2));
    assert_eq!(model.forward(&ids, "hidden.0").unwrap().len(), ids.len() * 192);
}

#[test]
fn a_score_for_each_token_but_the_first() {
    let model = student(&runtime());
    let ids = question(&model);
    let scores = model.score(&ids).unwrap();
    assert_eq!(scores.len(), ids.len() - 1);
    assert!(scores.iter().all(|&score| score <= 0.0));
}

#[test]
fn streaming_and_generating_write_the_same() {
    let model = student(&runtime());
    let mut session = asked(&model);
    let mut fork = session.fork().unwrap();
    let tokens: Vec<Token> = session.tokens().collect::<xhybrid::Result<_>>().unwrap();
    assert!(tokens.len() > 1);
    assert!(tokens.iter().enumerate().all(|(i, token)| token.finished == (i + 1 == tokens.len())));
    let text: String = tokens.iter().map(|token| &*token.piece).collect();
    assert_eq!(fork.generate().unwrap(), text);
    assert!(session.tokens().next().unwrap().is_err()); // the generation has ended
}

#[test]
fn a_sampler_counts_from_when_it_was_set() {
    let model = student(&runtime());
    let mut session = asked(&model);
    session.sampler(&Sampler::greedy().max_tokens(2)).unwrap();
    assert_eq!(session.tokens().count(), 2);
    session
        .sampler(&Sampler::new().temperature(0.8).top_k(20).top_p(0.9).seed(7).max_tokens(3).stop("zzz").stop("yyy"))
        .unwrap();
    assert!(session.tokens().count() <= 3);
}

#[test]
fn a_restored_snapshot_goes_on_as_the_original() {
    let model = student(&runtime());
    let mut session = asked(&model);
    let mut restored = model.session().unwrap();
    restored.restore(&session.snapshot().unwrap()).unwrap();
    assert_eq!(restored.generate().unwrap(), session.generate().unwrap());
    session.reset().unwrap();
    assert_eq!(session.position(), 0);
    assert!(session.state_bytes() > 0);
}

#[test]
fn a_batch_writes_what_the_session_would() {
    let model = student(&runtime());
    let mut session = asked(&model);
    let mut batch = model.batch(3).unwrap();
    batch.put(1, &session).unwrap();
    batch.put(2, &session).unwrap();
    batch.remove(2).unwrap();
    let mut text = String::new();
    loop {
        let tokens = batch.step().unwrap();
        assert_eq!(tokens.len(), 3);
        assert!(tokens[0].is_none() && tokens[2].is_none());
        let token = tokens[1].as_ref().unwrap();
        text += &token.piece;
        if token.finished {
            break;
        }
    }
    assert_eq!(text, session.generate().unwrap());
    assert!(batch.step().unwrap().iter().all(Option::is_none)); // it left its slot
    assert!(batch.state_bytes() > 0);
}

#[test]
fn what_was_opened_outlives_what_it_was_opened_from() {
    let runtime = runtime();
    let checkpoint = Checkpoint::open(&runtime, models().join("a.xhy")).unwrap();
    let model = student(&runtime);
    let recipe = json!({"models": [models().join("a.xhy")], "dry_run": true});
    let mut job = Job::open(&runtime, "merge", &recipe).unwrap();
    drop(runtime);
    checkpoint.verify().unwrap();
    assert!(job.run().is_ok());
    let mut session = asked(&model);
    drop(model);
    assert!(!session.generate().unwrap().is_empty());
}

#[test]
fn a_merge_reports_each_tensor_and_leaves_a_model() {
    let runtime = Runtime::builder().device("cpu").open().unwrap();
    let output = empty_directory("slerp").join("merged.xhy");
    let recipe = json!({"models": [models().join("a.xhy"), models().join("b.xhy")], "method": "slerp", "options": {"t": 0.5}, "output": output});
    let mut job = Job::open(&runtime, "merge", &recipe).unwrap();
    let events: Vec<_> = job.events().collect::<xhybrid::Result<_>>().unwrap();
    let result = job.result().unwrap();
    assert_eq!(
        events.iter().filter(|event| event["kind"] == "merge").count() as u64,
        result["tensors"].as_u64().unwrap()
    );
    assert_eq!(events.last().unwrap()["kind"], "saved");
    assert!(Model::load(&runtime, output).unwrap().describe().unwrap().is_object());
}
