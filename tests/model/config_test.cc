// Configs: what families are read, what is refused and how it is said, and the way into a checkpoint and back.
#include "core/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/model/student.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

json Llama() {
  return json::parse(R"({"model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2})");
}

json Qwen2() {
  json config = Llama();
  config["model_type"] = "qwen2";
  config["use_sliding_window"] = false;
  return config;
}

StatusOr<ModelConfig> Read(const json& config, const json& generation = nullptr) {
  return ConfigFromHuggingFace(config, generation, "config.json");
}

TEST(HuggingFaceConfig, ReadsSizesAndSwitchesOfLlama) {
  auto config = Read(Llama());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, "llama");
  EXPECT_EQ(config->vocab_size, 1000);
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->layer_count, 2);
  EXPECT_EQ(config->heads, 4);
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->head_dim, 16);  // implied
  EXPECT_EQ(config->intermediate_size, 128);
  EXPECT_EQ(config->context, 2048);
  EXPECT_EQ(config->norm_eps, 1e-5);
  EXPECT_FALSE(config->tied_embeddings || config->qkv_bias || config->output_bias || config->mlp_bias);
  EXPECT_EQ(config->eos_ids, std::vector<int32_t>{2});
  EXPECT_EQ(config->bos_id, 1);
  ASSERT_EQ(config->mixers.size(), 2u);
  EXPECT_EQ(config->mixers[1].kind, "attention");
  EXPECT_EQ(config->mixers[1].windows, (std::vector<int32_t>{0, 0}));
}

TEST(HuggingFaceConfig, TakesTheDefaultsOfItsFamily) {
  json bare = Llama();
  for (const char* key :
       {"num_key_value_heads", "rms_norm_eps", "hidden_act", "tie_word_embeddings", "bos_token_id", "eos_token_id"}) {
    bare.erase(key);
  }
  bare["head_dim"] = nullptr;
  auto config = Read(bare);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->kv_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->norm_eps, 1e-6);
  EXPECT_TRUE(config->eos_ids.empty());
  EXPECT_EQ(config->bos_id, -1);
  EXPECT_EQ(config->rope.theta, 10000);
}

TEST(HuggingFaceConfig, ReadsBiasesByFamily) {
  json llama = Llama();
  llama["attention_bias"] = true;
  llama["mlp_bias"] = true;
  auto config = Read(llama);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qkv_bias && config->output_bias && config->mlp_bias);
  config = Read(Qwen2());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qkv_bias);
  EXPECT_FALSE(config->output_bias || config->mlp_bias);
}

TEST(HuggingFaceConfig, ReadsBothSpellingsOfTheRotaryEmbedding) {
  const char* llama3 = R"({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})";
  const char* llama3_new = R"({"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})";
  for (const char* spelling : {llama3, llama3_new}) {
    json object = Llama();
    object.update(json::parse(spelling));
    auto config = Read(object);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->rope.type, "llama3");
    EXPECT_EQ(config->rope.theta, 500000);
    EXPECT_EQ(config->rope.factor, 8);
    EXPECT_EQ(config->rope.low_freq_factor, 1);
    EXPECT_EQ(config->rope.high_freq_factor, 4);
    EXPECT_EQ(config->rope.original_context, 8192);
  }
  json linear = Llama();
  linear["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
  auto config = Read(linear);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.type, "linear");
  EXPECT_EQ(config->rope.factor, 2);
  EXPECT_EQ(config->rope.theta, 10000);
}

TEST(HuggingFaceConfig, KnowsWhereEachFamilyNormalises) {
  const struct {
    const char *family, *qk_norm, *placement;
    double eps, theta;
    int64_t head_dim;  // when the config does not say it
  } families[] = {{"llama", "none", "pre", 1e-6, 10000, 16},
                  {"qwen2", "none", "pre", 1e-6, 10000, 16},
                  {"qwen3", "head", "pre", 1e-6, 10000, 128},
                  {"olmo2", "full", "post", 1e-5, 10000, 16},
                  {"olmo3", "full", "post", 1e-5, 500000, 16}};
  for (const auto& want : families) {
    json object = Llama();
    object["model_type"] = want.family;
    object.erase("rms_norm_eps");
    auto config = Read(object);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->qk_norm, want.qk_norm) << want.family;
    EXPECT_EQ(config->norm_placement, want.placement) << want.family;
    EXPECT_EQ(config->norm_eps, want.eps) << want.family;
    EXPECT_EQ(config->rope.theta, want.theta) << want.family;
    EXPECT_EQ(config->head_dim, want.head_dim) << want.family;
    EXPECT_EQ(config->qkv_bias, std::string(want.family) == "qwen2") << want.family;
  }
}

TEST(HuggingFaceConfig, GivesSlidingLayersTheTeachersWindow) {
  json olmo3 = Llama();
  olmo3["model_type"] = "olmo3";
  olmo3["num_hidden_layers"] = 5;
  auto config = Read(olmo3);  // three of four
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->sliding.layers, (std::vector<int32_t>{0, 1, 2, 4}));
  EXPECT_EQ(config->sliding.window, 4096);
  EXPECT_EQ(config->mixers[3].kind, "attention");
  EXPECT_EQ(config->mixers[4].kind, "window");
  EXPECT_EQ(config->mixers[4].windows, (std::vector<int32_t>{4096, 4096}));
  EXPECT_EQ(config->mixers[4].sinks, 0);

  json qwen2 = Qwen2();
  qwen2.update(json::parse(R"({"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 1})"));
  config = Read(qwen2);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->sliding.layers, std::vector<int32_t>{1});
  EXPECT_EQ(config->mixers[1].windows, (std::vector<int32_t>{7, 7}));
  qwen2["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(Read(qwen2)->sliding.layers, std::vector<int32_t>{0});
  qwen2["sliding_window"] = 0;
  EXPECT_THAT(Read(qwen2), FailsWith(XH_INVALID_ARGUMENT, "\"sliding_window\" is 0"));
}

TEST(HuggingFaceConfig, ScalesOnlyLayersWithFullAttentionWhereOthersSlide) {
  json olmo3 = Llama();
  olmo3.update(json::parse(R"({"model_type": "olmo3", "num_hidden_layers": 4, "rope_theta": 20000.0,
      "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}})"));
  auto older = Read(olmo3);
  ASSERT_TRUE(older.ok()) << older.status();
  EXPECT_EQ(older->rope.type, "yarn");
  EXPECT_EQ(older->rope.theta, 20000);
  EXPECT_EQ(older->rope.original_context, 256);
  EXPECT_NEAR(older->rope.attention_factor, 0.1 * std::log(8.0) + 1, 1e-12);
  EXPECT_EQ(older->sliding.rope.type, "default");
  EXPECT_EQ(older->sliding.rope.theta, 20000);
  olmo3.erase("rope_theta");
  olmo3.erase("rope_scaling");
  olmo3["rope_parameters"] = json::parse(R"({
      "full_attention": {"rope_type": "yarn", "rope_theta": 20000.0, "factor": 8.0,
                         "original_max_position_embeddings": 256, "beta_fast": 16, "truncate": false},
      "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})");
  auto newer = Read(olmo3);
  ASSERT_TRUE(newer.ok()) << newer.status();
  EXPECT_EQ(newer->rope.factor, 8);
  EXPECT_EQ(newer->rope.beta_fast, 16);
  EXPECT_EQ(newer->rope.beta_slow, 1);
  EXPECT_FALSE(newer->rope.truncate);
  EXPECT_EQ(newer->sliding.rope.theta, 10000);
  const json stored = ConfigToJson(*newer);
  auto read = ConfigFromJson(stored, "checkpoint");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ConfigToJson(*read), stored);
  EXPECT_TRUE(read->rope == newer->rope && read->sliding.rope == newer->sliding.rope);
}

TEST(HuggingFaceConfig, TakesEndTokensFromTheGenerationConfigFirst) {
  auto config = Read(Llama(), json::parse(R"({"eos_token_id": [2, 7, 9]})"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->eos_ids, (std::vector<int32_t>{2, 7, 9}));
  EXPECT_EQ(config->bos_id, 1);
  config = Read(Llama(), json::parse(R"({"temperature": 0.6})"));
  EXPECT_EQ(config->eos_ids, std::vector<int32_t>{2});
  EXPECT_THAT(Read(Llama(), json::parse(R"({"eos_token_id": [2, 1000]})")),
              FailsWith(XH_INVALID_ARGUMENT,
                        "generation_config.json: \"eos_token_id\" is 1000; allowed: integers from 0 to 999"));
}

struct BadConfig {
  const char* change;  // merged over the good config; null removes
  xh_code code;
  const char* part;
};

TEST(HuggingFaceConfig, RefusesByFieldValueAndWhatIsAllowed) {
  const BadConfig cases[] = {
      {R"({"model_type": "mistral"})", XH_UNSUPPORTED,
       R"("model_type" is "mistral"; allowed: "llama", "qwen2", "qwen3", "olmo2", "olmo3")"},
      {R"({"model_type": "qwen3_moe", "num_experts": 128})", XH_UNSUPPORTED, "names a mixture of experts"},
      {R"({"model_type": null})", XH_INVALID_ARGUMENT, "\"model_type\" is missing"},
      {R"({"model_type": 7})", XH_INVALID_ARGUMENT, "\"model_type\" is 7; allowed: text"},
      {R"({"num_local_experts": 8})", XH_UNSUPPORTED, "\"num_local_experts\" names a mixture of experts"},
      {R"({"quantization_config": {"bits": 4}})", XH_UNSUPPORTED, "\"quantization_config\" is present"},
      {R"({"hidden_act": "gelu"})", XH_UNSUPPORTED, "\"hidden_act\" is \"gelu\"; allowed: \"silu\""},
      {R"({"partial_rotary_factor": 0.5})", XH_UNSUPPORTED, "\"partial_rotary_factor\" is 0.5"},
      {R"({"rope_scaling": {"rope_type": "longrope", "factor": 4}})", XH_UNSUPPORTED,
       R"(rope_scaling: "rope_type" is "longrope"; allowed: "default", "linear", "llama3", "yarn")"},
      {R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 2}})", XH_INVALID_ARGUMENT,
       "\"beta_fast\" is 1; allowed: more than \"beta_slow\" (2)"},
      {R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "rope_theta": 1}})", XH_INVALID_ARGUMENT,
       "\"theta\" is 1; allowed with \"yarn\": more than 1"},
      {R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "attention_factor": "high"}})", XH_INVALID_ARGUMENT,
       "\"attention_factor\" is \"high\""},
      {R"({"rope_parameters": {"full_attention": {"rope_type": "default"}}})", XH_UNSUPPORTED,
       "rope_parameters holds objects by kind of layer"},
      {R"({"rope_scaling": {"type": "dynamic", "factor": 4}})", XH_UNSUPPORTED, "\"type\" is \"dynamic\""},
      {R"({"rope_scaling": {"type": "linear"}})", XH_INVALID_ARGUMENT, "\"factor\" is missing"},
      {R"({"rope_scaling": {"type": "linear", "factor": 0}})", XH_INVALID_ARGUMENT, "\"factor\" is 0"},
      {R"({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1}})", XH_INVALID_ARGUMENT,
       "\"high_freq_factor\" is missing"},
      {R"({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
          "original_max_position_embeddings": 512}})",
       XH_INVALID_ARGUMENT, "\"high_freq_factor\" is 4; allowed: more than"},
      {R"({"rope_scaling": "linear"})", XH_INVALID_ARGUMENT, "rope_scaling is \"linear\"; allowed: an object"},
      {R"({"rope_theta": -1})", XH_INVALID_ARGUMENT, "\"rope_theta\" is -1"},
      {R"({"vocab_size": 0})", XH_INVALID_ARGUMENT, "\"vocab_size\" is 0; allowed: integer from 1"},
      {R"({"vocab_size": "1000"})", XH_INVALID_ARGUMENT, "\"vocab_size\" is \"1000\""},
      {R"({"hidden_size": -64})", XH_INVALID_ARGUMENT, "\"hidden_size\" is -64"},
      {R"({"hidden_size": 1000000000000})", XH_INVALID_ARGUMENT, "\"hidden_size\" is 1000000000000"},
      {R"({"hidden_size": 1e12})", XH_INVALID_ARGUMENT, "\"hidden_size\""},
      {R"({"hidden_size": 66})", XH_INVALID_ARGUMENT, "\"hidden_size\" is 66; allowed without \"head_dim\""},
      {R"({"hidden_size": null})", XH_INVALID_ARGUMENT, "\"hidden_size\" is missing"},
      {R"({"num_hidden_layers": 0})", XH_INVALID_ARGUMENT, "\"num_hidden_layers\" is 0"},
      {R"({"num_hidden_layers": 18446744073709551615})", XH_INVALID_ARGUMENT, "\"num_hidden_layers\""},
      {R"({"num_attention_heads": 0})", XH_INVALID_ARGUMENT, "\"num_attention_heads\" is 0"},
      {R"({"num_key_value_heads": 3})", XH_INVALID_ARGUMENT,
       "\"num_attention_heads\" is 4; allowed: a multiple of \"num_key_value_heads\" (3)"},
      {R"({"num_key_value_heads": 0})", XH_INVALID_ARGUMENT, "\"num_key_value_heads\" is 0"},
      {R"({"head_dim": 15})", XH_INVALID_ARGUMENT, "the head dimension is 15; allowed: an even number"},
      {R"({"head_dim": 1000000})", XH_INVALID_ARGUMENT, "\"head_dim\" is 1000000"},
      {R"({"num_attention_heads": 16384, "num_key_value_heads": 1, "head_dim": 4096})", XH_INVALID_ARGUMENT,
       "\"heads\" times \"head_dim\""},
      {R"({"intermediate_size": 0})", XH_INVALID_ARGUMENT, "\"intermediate_size\" is 0"},
      {R"({"max_position_embeddings": null})", XH_INVALID_ARGUMENT, "\"max_position_embeddings\" is missing"},
      {R"({"rms_norm_eps": 0})", XH_INVALID_ARGUMENT, "\"rms_norm_eps\" is 0"},
      {R"({"tie_word_embeddings": "yes"})", XH_INVALID_ARGUMENT, "\"tie_word_embeddings\" is \"yes\""},
      {R"({"eos_token_id": 1000})", XH_INVALID_ARGUMENT, "\"eos_token_id\" is 1000"},
      {R"({"eos_token_id": [2, "x"]})", XH_INVALID_ARGUMENT, "\"eos_token_id\" is \"x\""},
      {R"({"layer_types": ["full_attention", "sliding_attention"]})", XH_UNSUPPORTED,
       "\"layer_types\" holds \"sliding_attention\"; allowed"},
      {R"({"layer_types": ["full_attention"]})", XH_INVALID_ARGUMENT,
       "\"layer_types\" is a list of 1; allowed: one text a layer (2)"},
      {R"({"layer_types": ["full_attention", "linear_attention"]})", XH_UNSUPPORTED,
       R"("layer_types" holds "linear_attention"; allowed: "full_attention", "sliding_attention")"},
  };
  for (const BadConfig& bad : cases) {
    for (json config : {Llama(), Qwen2()}) {
      config.merge_patch(json::parse(bad.change));
      EXPECT_THAT(Read(config), FailsWith(bad.code, bad.part)) << bad.change;
      EXPECT_THAT(Read(config), FailsWith(bad.code, "config.json")) << bad.change;
    }
  }
  for (const char* text : {"[]", "3", "null", "\"llama\""}) {
    EXPECT_THAT(Read(json::parse(text)), FailsWith(XH_INVALID_ARGUMENT, "allowed: an object")) << text;
  }
}

// ---- in checkpoints ----

TEST(StoredConfig, ComesBackAsItWas) {
  json object = Llama();
  object["rope_scaling"] = json::parse(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 512})");
  object["num_hidden_layers"] = 5;
  auto teacher = Read(object, json::parse(R"({"eos_token_id": [2, 7]})"));
  ASSERT_TRUE(teacher.ok()) << teacher.status();
  auto student = StudentConfig(*teacher, json::parse(R"({"window": 64, "output_gate_bias": -1.5, "layers": [
    {"layer": 0, "kind": "attention"}, {"layer": 1, "kind": "window", "window": [0, 9], "sinks": 1},
    {"layer": 2, "kind": "mlstm", "feature_map": "none"}, {"layer": 3, "feature_map": "hedgehog", "features": 24}]})"));
  ASSERT_TRUE(student.ok()) << student.status();
  const json stored = ConfigToJson(*student);
  auto read = ConfigFromJson(json::parse(stored.dump()), "checkpoint");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ConfigToJson(*read), stored);
  EXPECT_EQ(read->rope.factor, 8);
  EXPECT_EQ(read->rope.original_context, 512);
  EXPECT_EQ(read->eos_ids, (std::vector<int32_t>{2, 7}));
  EXPECT_EQ(read->mixers[0].windows, (std::vector<int32_t>{0, 0}));
  EXPECT_EQ(read->mixers[1].windows, (std::vector<int32_t>{0, 9}));
  EXPECT_EQ(read->mixers[1].sinks, 1);
  EXPECT_EQ(read->mixers[2].feature_map, "none");
  EXPECT_TRUE(read->mixers[2].windows.empty());
  EXPECT_EQ(read->mixers[3].features, 24);
  EXPECT_EQ(read->mixers[4].output_gate_bias, -1.5);
}

TEST(StoredConfig, RefusesWhatNoWriterWrites) {
  auto student = StudentConfig(*Read(Llama()), json::object());
  ASSERT_TRUE(student.ok()) << student.status();
  const json good = ConfigToJson(*student);
  const BadConfig cases[] = {
      {R"({"family": "rwkv"})", XH_UNSUPPORTED, "\"family\" is \"rwkv\""},
      {R"({"heads": 0})", XH_INVALID_ARGUMENT, "\"heads\" is 0"},
      {R"({"kv_heads": 3})", XH_INVALID_ARGUMENT, "\"heads\" is 4; allowed: a multiple of \"kv_heads\" (3)"},
      {R"({"kv_heads": 8})", XH_INVALID_ARGUMENT, "\"kv_heads\" is 8"},
      {R"({"head_dim": 7})", XH_INVALID_ARGUMENT, "\"head_dim\" is 7"},
      {R"({"layer_count": 3})", XH_INVALID_ARGUMENT, "\"mixers\" has 2 entries; allowed: one a layer (3)"},
      {R"({"mixers": 5})", XH_INVALID_ARGUMENT, "\"mixers\" is not a list"},
      {R"({"mixers": [{"kind": "gla"}, {"kind": "attention"}]})", XH_INVALID_ARGUMENT, "layer 0: \"kind\" is \"gla\""},
      {R"({"mixers": [{"kind": "attention"}, {"kind": "window", "windows": [-1, 2], "sinks": 0}]})",
       XH_INVALID_ARGUMENT, "layer 1: \"windows\" holds -1"},
      {R"({"mixers": [{"kind": "attention"}, {"kind": "window", "windows": [1], "sinks": 0}]})", XH_INVALID_ARGUMENT,
       "\"windows\" has 1 numbers; allowed: one a key/value head (2)"},
      {R"({"mixers": [{"kind": "attention"}, {"kind": "mlstm", "feature_map": "softmax"}]})", XH_INVALID_ARGUMENT,
       "layer 1: \"features\" is missing"},
      {R"({"rope": null})", XH_INVALID_ARGUMENT, "rope"},
      {R"({"eos_ids": [1000]})", XH_INVALID_ARGUMENT, "\"eos_ids\" is 1000"},
      {R"({"qk_norm": "row"})", XH_INVALID_ARGUMENT, R"("qk_norm" is "row"; allowed: "none", "head", "full")"},
      {R"({"norm_placement": "both"})", XH_INVALID_ARGUMENT, "\"norm_placement\" is \"both\""},
      {R"({"sliding_window": 4, "sliding_layers": [1, 0], "sliding_rope": {"type": "default", "theta": 1e4}})",
       XH_INVALID_ARGUMENT, "\"sliding_layers\" is 0"},
      {R"({"sliding_window": 4, "sliding_layers": [2], "sliding_rope": {"type": "default", "theta": 1e4}})",
       XH_INVALID_ARGUMENT, "\"sliding_layers\" is 2"},
      {R"({"sliding_window": 4, "sliding_layers": [1]})", XH_INVALID_ARGUMENT, "sliding_rope"},
      {R"({"bos_id": 5000})", XH_INVALID_ARGUMENT, "\"bos_id\" is 5000"},
  };
  for (const BadConfig& bad : cases) {
    json config = good;
    config.merge_patch(json::parse(bad.change));
    EXPECT_THAT(ConfigFromJson(config, "checkpoint"), FailsWith(bad.code, bad.part)) << bad.change;
  }
  for (const auto& item : good.items()) {
    json config = good;
    config.erase(item.key());
    // The first writers did not know these: what they wrote has neither.
    if (item.key() == "qk_norm" || item.key() == "norm_placement") {
      EXPECT_TRUE(ConfigFromJson(config, "checkpoint").ok()) << item.key();
      continue;
    }
    EXPECT_THAT(ConfigFromJson(config, "checkpoint"), FailsWith(XH_INVALID_ARGUMENT, item.key())) << item.key();
  }
}

// ---- parameters ----

TEST(Parameters, HaveTheNamesOfHuggingFaceAndNewOnesBelowXlstm) {
  json object = Qwen2();
  object["num_hidden_layers"] = 1;
  object["tie_word_embeddings"] = true;
  auto student = StudentConfig(*Read(object), json::parse(R"({"features": 24})"));
  ASSERT_TRUE(student.ok()) << student.status();
  std::vector<std::string> names;
  std::map<std::string, Shape> shapes;
  for (const ParameterSpec& spec : ParametersOf(*student)) {
    names.push_back(spec.name);
    shapes[spec.name] = spec.shape;
  }
  const std::string block = "model.layers.0.", mixer = block + "self_attn.xlstm.";
  EXPECT_THAT(names,
              ::testing::ElementsAre(
                  "model.embed_tokens.weight", block + "input_layernorm.weight", block + "self_attn.q_proj.weight",
                  block + "self_attn.q_proj.bias", block + "self_attn.k_proj.weight", block + "self_attn.k_proj.bias",
                  block + "self_attn.v_proj.weight", block + "self_attn.v_proj.bias", block + "self_attn.o_proj.weight",
                  mixer + "query_features.weight", mixer + "key_features.weight", mixer + "input_gate.weight",
                  mixer + "input_gate.bias", mixer + "forget_gate.weight", mixer + "forget_gate.bias",
                  mixer + "output_gate.weight", mixer + "output_gate.bias", block + "post_attention_layernorm.weight",
                  block + "mlp.gate_proj.weight", block + "mlp.up_proj.weight", block + "mlp.down_proj.weight",
                  "model.norm.weight"));
  EXPECT_EQ(shapes[block + "self_attn.k_proj.weight"], (Shape{32, 64}));
  EXPECT_EQ(shapes[mixer + "key_features.weight"], (Shape{4, 16, 24}));
  EXPECT_EQ(shapes[mixer + "input_gate.weight"], (Shape{4, 64}));
  EXPECT_EQ(shapes[mixer + "output_gate.weight"], (Shape{4, 48}));
}

// ---- rotary embedding ----

TEST(RopeTable, TurnsByThetaAndPosition) {
  ModelConfig config = *Read(Llama());
  const std::vector<float> table = RopeTable(config, 5);
  for (int p = 0; p < 5; ++p) {
    for (int i = 0; i < 8; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / 16);
      EXPECT_FLOAT_EQ(table[p * 16 + i], static_cast<float>(std::cos(angle)));
      EXPECT_FLOAT_EQ(table[p * 16 + 8 + i], static_cast<float>(std::sin(angle)));
    }
  }
}

TEST(RopeTable, LinearScalingSlowsEveryPairByTheFactor) {
  ModelConfig config = *Read(Llama());
  const std::vector<float> plain = RopeTable(config, 3);
  config.rope.type = "linear";
  config.rope.factor = 2;
  const std::vector<float> scaled = RopeTable(config, 5);
  for (int i = 0; i < 16; ++i) EXPECT_FLOAT_EQ(scaled[4 * 16 + i], plain[2 * 16 + i]);
}

// Frequencies of transformers 5.17 for head_dim 16, theta 10,000, factor 4 over 512 positions.
TEST(RopeTable, YarnKeepsFastPairsAndSlowsOthersAsTheReference) {
  const struct {
    const char* options;
    double frequencies[8];
    double attention_factor;
  } cases[] = {{R"({})",
                {1.0, 0.2569350600242615, 0.0625, 0.013834965415298939, 0.0024999999441206455, 0.0007905694656074047,
                 0.0002500000118743628, 7.905694656074047e-05},
                1.138629436111989},
               {R"({"truncate": false, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25})",
                {1.0, 0.3162277638912201, 0.07566440105438232, 0.010796109214425087, 0.0024999999441206455,
                 0.0007905694656074047, 0.0002500000118743628, 7.905694656074047e-05},
                1.25}};
  for (const auto& reference : cases) {
    json object = Llama();
    object["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 512}};
    object["rope_scaling"].update(json::parse(reference.options));
    auto config = Read(object);
    ASSERT_TRUE(config.ok()) << config.status();
    const std::vector<float> table = RopeTable(*config, 2);
    for (int i = 0; i < 8; ++i) {
      EXPECT_NEAR(table[16 + i], reference.attention_factor * std::cos(reference.frequencies[i]), 2e-7) << i;
      EXPECT_NEAR(table[16 + 8 + i], reference.attention_factor * std::sin(reference.frequencies[i]), 2e-7) << i;
    }
  }
}

TEST(RopeTable, HoldsASecondTableWhereSlidingLayersTurnOtherwise) {
  json olmo3 = Llama();
  olmo3["model_type"] = "olmo3";
  ModelConfig config = *Read(olmo3);
  EXPECT_EQ(RopeTableShape(config, 5), (Shape{5, 16}));
  const std::vector<float> one = RopeTable(config, 5);
  config.sliding.rope.theta = 10000;
  EXPECT_EQ(RopeTableShape(config, 5), (Shape{10, 16}));
  const std::vector<float> both = RopeTable(config, 5);
  EXPECT_TRUE(std::equal(one.begin(), one.end(), both.begin()));
  config.rope = config.sliding.rope;
  const std::vector<float> sliding = RopeTable(config, 5);
  EXPECT_TRUE(std::equal(sliding.begin(), sliding.end(), both.begin() + 5 * 16));
}

}  // namespace
}  // namespace xh::test
