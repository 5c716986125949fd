// The way of a model onto disk and back: import, what it refuses, saving and loading.
#include "core/model/import.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/safetensors.h"
#include "core/model/save.h"
#include "core/model/source.h"
#include "tests/checkpoint/scratch.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

struct Stored {
  xh_dtype dtype;
  Shape shape;
  std::string bytes;
};

// A copy of a teacher's directory whose tensors and config can be changed.
class TeacherCopy {
 public:
  explicit TeacherCopy(const std::string& name) : config(json::parse(ReadBytes(TeacherPath(name) + "/config.json"))) {
    auto reader = SafetensorsReader::Open(TeacherPath(name) + "/model.safetensors");
    EXPECT_TRUE(reader.ok()) << reader.status();
    for (const SafeTensor& tensor : (*reader)->tensors()) {
      std::string bytes(static_cast<size_t>(tensor.bytes), '\0');
      EXPECT_TRUE((*reader)->Read(tensor.name, bytes.data(), tensor.bytes).ok());
      tensors[tensor.name] = {tensor.dtype, tensor.shape, bytes};
    }
  }

  void Convert(xh_dtype dtype) {
    for (auto& [name, tensor] : tensors) {
      const int64_t count = static_cast<int64_t>(tensor.bytes.size() / sizeof(float));
      std::string bytes(static_cast<size_t>(count * DTypeBytes(dtype)), '\0');
      FromF32(reinterpret_cast<const float*>(tensor.bytes.data()), count, dtype, bytes.data());
      tensor = {dtype, tensor.shape, bytes};
    }
  }

  void WriteFile(const std::string& file, const std::function<bool(const std::string&)>& holds) const {
    std::vector<SafeTensorData> data;
    for (const auto& [name, tensor] : tensors) {
      if (holds(name)) data.push_back({name, tensor.dtype, tensor.shape, tensor.bytes.data()});
    }
    const Status written = WriteSafetensors(scratch / file, data);
    EXPECT_TRUE(written.ok()) << written;
  }

  // Writes everything and gives the directory.
  const std::string& Write() const {
    WriteBytes(scratch / "config.json", config.dump());
    WriteFile("model.safetensors", [](const std::string&) { return true; });
    return scratch.path();
  }

  Scratch scratch;
  json config;
  std::map<std::string, Stored> tensors;
};

StatusOr<std::vector<json>> RunImport(const json& recipe, json* result = nullptr) {
  XH_ASSIGN_OR_RETURN(std::unique_ptr<Job> job, OpenImportJob(CpuRuntime(), recipe));
  std::vector<json> events;
  for (bool finished = false; !finished;) {
    events.emplace_back();
    XH_ASSIGN_OR_RETURN(finished, job->Next(&events.back()));
  }
  if (result != nullptr) *result = job->Result();
  return events;
}

std::string WeightBytes(const Model& model, const std::string& name) {
  const Weight& weight = model.weights.at(name);
  std::string bytes(static_cast<size_t>(weight.buffer->bytes()), '\0');
  EXPECT_TRUE(model.device->Copy(bytes.data(), weight.buffer->data(), weight.buffer->bytes()).ok());
  EXPECT_TRUE(model.device->Synchronize().ok());
  return bytes;
}

void ExpectSameModel(const Model& got, const Model& want) {
  EXPECT_EQ(ConfigToJson(got.config), ConfigToJson(want.config));
  ASSERT_EQ(got.weights.size(), want.weights.size());
  for (const auto& [name, weight] : want.weights) {
    EXPECT_EQ(got.weights.at(name).dtype, weight.dtype) << name;
    EXPECT_EQ(got.weights.at(name).shape, weight.shape) << name;
    EXPECT_EQ(WeightBytes(got, name), WeightBytes(want, name)) << name;
  }
}

// ---- import ----

TEST(Import, MakesACheckpointThatLoadsAsTheSameModel) {
  for (const char* name : {"hf_llama", "hf_llama3_rope_tied", "hf_qwen2", "hf_qwen3", "hf_olmo2", "hf_olmo3"}) {
    SCOPED_TRACE(name);
    Scratch scratch;
    const std::string output = scratch / "teacher.xhy";
    json result;
    auto events = RunImport({{"model", TeacherPath(name)}, {"output", output}}, &result);
    ASSERT_TRUE(events.ok()) << events.status();
    auto teacher = LoadTeacher(name);
    ASSERT_EQ(events->size(), teacher->weights.size() + 1);
    EXPECT_EQ((*events)[0]["kind"], "tensor");
    EXPECT_EQ((*events)[0]["name"], "model.embed_tokens.weight");
    EXPECT_EQ((*events)[0]["bytes"], 160 * 64 * 4);
    EXPECT_EQ((*events)[0]["done"], 1);
    EXPECT_EQ((*events)[0]["total"], teacher->weights.size());
    EXPECT_EQ(events->back()["kind"], "saved");
    EXPECT_EQ(result["parameters"], teacher->Describe()["parameters"]);
    EXPECT_EQ(result["bytes"], teacher->Describe()["weight_bytes"]);
    auto imported = Model::Load(CpuRuntime(), output);
    ASSERT_TRUE(imported.ok()) << imported.status();
    ExpectSameModel(**imported, *teacher);
    EXPECT_EQ((*imported)->huggingface_files.at("config.json"), ReadBytes(TeacherPath(name) + "/config.json"));
    EXPECT_EQ((*imported)->huggingface_files.count("generation_config.json"), 1u);
    EXPECT_EQ((*imported)->history[0]["kind"], "import");
    auto config = ReadConfig(**CheckpointReader::Open(output));
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(ConfigToJson(*config), ConfigToJson(teacher->config));
  }
}

TEST(Import, ReadsShardsAndCarriesTokenizerFiles) {
  TeacherCopy copy("hf_llama");
  WriteBytes(copy.scratch / "config.json", copy.config.dump());
  WriteBytes(copy.scratch / "tokenizer_config.json", "{\"bos_token\": \"<s>\"}");
  auto in_first = [](const std::string& name) { return name.find("layers.1") != std::string::npos; };
  copy.WriteFile("model-00001-of-00002.safetensors", in_first);
  copy.WriteFile("model-00002-of-00002.safetensors", [&](const std::string& name) { return !in_first(name); });
  json index = {{"metadata", json::object()}, {"weight_map", json::object()}};
  for (const auto& [name, tensor] : copy.tensors) {
    index["weight_map"][name] = absl::StrCat("model-0000", in_first(name) ? 1 : 2, "-of-00002.safetensors");
  }
  WriteBytes(copy.scratch / "model.safetensors.index.json", index.dump());
  const std::string output = copy.scratch / "out.xhy";
  auto events = RunImport({{"model", copy.scratch.path()}, {"output", output}});
  ASSERT_TRUE(events.ok()) << events.status();
  auto model = Model::Load(CpuRuntime(), output);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->tokenizer_files.at("tokenizer_config.json"), "{\"bos_token\": \"<s>\"}");
  EXPECT_EQ((*model)->tokenizer, nullptr);
  EXPECT_FALSE((*model)->tokenizer_problem.empty());
  EXPECT_EQ(WeightBytes(**model, "model.layers.1.mlp.up_proj.weight"),
            copy.tensors["model.layers.1.mlp.up_proj.weight"].bytes);
}

TEST(Import, ConvertsOnRequest) {
  TeacherCopy copy("hf_llama");
  copy.Convert(XH_F16);
  const std::string directory = copy.Write();
  for (const auto& [asked, written, loaded] :
       {std::tuple{"stored", XH_F16, XH_F32}, {"f32", XH_F32, XH_F32}, {"bf16", XH_BF16, XH_BF16}}) {
    const std::string output = copy.scratch / (std::string(asked) + ".xhy");
    auto events = RunImport({{"model", directory}, {"output", output}, {"dtype", asked}});
    ASSERT_TRUE(events.ok()) << events.status();
    auto reader = CheckpointReader::Open(output);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ((*reader)->Find("model.norm.weight")->dtype, written) << asked;
    auto model = Model::Load(CpuRuntime(), output);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->weights.at("model.norm.weight").dtype, loaded) << asked;
  }
  // f16 to f32 loses nothing: the model is the directory's.
  ExpectSameModel(**Model::Load(CpuRuntime(), copy.scratch / "f32.xhy"), **Model::Load(CpuRuntime(), directory));
}

TEST(Import, PassesOverTensorsThatCarryNothing) {
  TeacherCopy copy("hf_qwen2");  // tied
  copy.tensors["lm_head.weight"] = copy.tensors["model.embed_tokens.weight"];
  copy.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {XH_F32, {1}, std::string(4, '\0')};
  auto source = OpenModelSource(copy.Write());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->tensors.size(), ParametersOf(source->config).size());
}

TEST(Import, ChecksEveryTensorBeforeAnythingIsWritten) {
  const struct {
    std::function<void(TeacherCopy&)> change;
    xh_code code;
    const char* part;
  } cases[] = {
      {[](TeacherCopy& c) { c.tensors.erase("model.layers.2.mlp.up_proj.weight"); }, XH_INCOMPATIBLE,
       "tensor \"model.layers.2.mlp.up_proj.weight\" is missing"},
      {[](TeacherCopy& c) { c.tensors.erase("lm_head.weight"); }, XH_INCOMPATIBLE, "\"lm_head.weight\" is missing"},
      {[](TeacherCopy& c) { c.config["num_hidden_layers"] = 4; }, XH_INCOMPATIBLE,
       "tensor \"model.layers.3.input_layernorm.weight\" is missing (and 8 more)"},
      {[](TeacherCopy& c) { c.config["num_hidden_layers"] = 2; }, XH_INCOMPATIBLE,
       "tensor \"model.layers.2.input_layernorm.weight\" belongs to no part"},
      {[](TeacherCopy& c) { c.tensors["model.extra.weight"] = c.tensors["model.norm.weight"]; }, XH_INCOMPATIBLE,
       "tensor \"model.extra.weight\" belongs to no part"},
      {[](TeacherCopy& c) { c.config["intermediate_size"] = 111; }, XH_INCOMPATIBLE,
       "tensor \"model.layers.0.mlp.gate_proj.weight\" has shape [112, 64]; the config asks for [111, 64]"},
      {[](TeacherCopy& c) { c.tensors["model.norm.weight"].dtype = XH_I32; }, XH_INCOMPATIBLE,
       "tensor \"model.norm.weight\" holds i32; allowed: f32, f16, bf16"},
      {[](TeacherCopy& c) { c.config["hidden_act"] = "relu"; }, XH_UNSUPPORTED, "\"hidden_act\" is \"relu\""},
  };
  for (const auto& bad : cases) {
    TeacherCopy copy("hf_llama");
    bad.change(copy);
    const std::string directory = copy.Write();
    const std::vector<std::string> before = List(directory);
    EXPECT_THAT(OpenImportJob(CpuRuntime(), {{"model", directory}, {"output", copy.scratch / "out.xhy"}}),
                FailsWith(bad.code, bad.part));
    EXPECT_THAT(Model::Load(CpuRuntime(), directory), FailsWith(bad.code, bad.part));
    EXPECT_EQ(List(directory), before);
  }
}

TEST(Import, RefusesWeightsThatAreNotFiniteByName) {
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    TeacherCopy copy("hf_llama");
    std::string& bytes = copy.tensors["model.layers.1.mlp.down_proj.weight"].bytes;
    bytes.replace(4 * 77, 4, reinterpret_cast<const char*>(&bad), 4);
    const std::string directory = copy.Write();
    const std::vector<std::string> before = List(directory);
    const std::string part = absl::StrCat("tensor \"model.layers.1.mlp.down_proj.weight\" holds ",
                                          std::isnan(bad) ? "NaN" : "an infinite value", " at element 77");
    EXPECT_THAT(RunImport({{"model", directory}, {"output", copy.scratch / "out.xhy"}}), FailsWith(XH_CORRUPT, part));
    EXPECT_EQ(List(directory), before);
    EXPECT_THAT(Model::Load(CpuRuntime(), directory), FailsWith(XH_CORRUPT, part));
    EXPECT_THAT(Model::Load(CpuRuntime(), directory, XH_BF16), FailsWith(XH_CORRUPT, part));
  }
}

TEST(Import, OfADryRunWritesNothing) {
  Scratch scratch;
  json result;
  auto events =
      RunImport({{"model", TeacherPath("hf_llama")}, {"output", scratch / "a.xhy"}, {"dry_run", true}}, &result);
  ASSERT_TRUE(events.ok()) << events.status();
  EXPECT_EQ(events->size(), 1u);
  EXPECT_EQ((*events)[0]["kind"], "checked");
  EXPECT_EQ(result["dry_run"], true);
  EXPECT_TRUE(List(scratch.path()).empty());
}

TEST(Import, ReplacesOnlyOnRequest) {
  Scratch scratch;
  json recipe = {{"model", TeacherPath("hf_llama")}, {"output", scratch / "a.xhy"}};
  ASSERT_TRUE(RunImport(recipe).ok());
  EXPECT_THAT(RunImport(recipe), FailsWith(XH_INVALID_STATE, "a.xhy"));
  recipe["model"] = TeacherPath("hf_qwen2");
  recipe["replace"] = true;
  ASSERT_TRUE(RunImport(recipe).ok());
  EXPECT_EQ((*Model::Load(CpuRuntime(), scratch / "a.xhy"))->config.family, "qwen2");
}

TEST(Import, ThatIsCancelledLeavesNothing) {
  Scratch scratch;
  auto job = OpenImportJob(CpuRuntime(), {{"model", TeacherPath("hf_llama")}, {"output", scratch / "a.xhy"}});
  ASSERT_TRUE(job.ok()) << job.status();
  json event;
  ASSERT_TRUE((*job)->Next(&event).ok());
  (*job)->Cancel();
  EXPECT_THAT((*job)->Next(&event), FailsWith(XH_CANCELLED, "nothing was written"));
  EXPECT_THAT((*job)->Next(&event), FailsWith(XH_CANCELLED, "nothing was written"));
  job->reset();
  EXPECT_TRUE(List(scratch.path()).empty());
}

TEST(Import, RefusesBadRecipes) {
  Scratch scratch;
  EXPECT_THAT(RunImport({{"output", "x.xhy"}}), FailsWith(XH_INVALID_ARGUMENT, "\"model\""));
  EXPECT_THAT(RunImport({{"model", TeacherPath("hf_llama")}}), FailsWith(XH_INVALID_ARGUMENT, "\"output\""));
  EXPECT_THAT(RunImport({{"model", "m"}, {"output", "x"}, {"dtype", "f64"}}),
              FailsWith(XH_INVALID_ARGUMENT, "\"f64\""));
  EXPECT_THAT(RunImport({{"model", "m"}, {"ouput", "x"}}), FailsWith(XH_INVALID_ARGUMENT, "\"ouput\""));
  EXPECT_THAT(RunImport({{"model", scratch / "none"}, {"output", scratch / "x.xhy"}}), FailsWith(XH_NOT_FOUND, "none"));
  WriteBytes(scratch / "config.json", "{\"model_type\": \"llama\", ");
  EXPECT_THAT(RunImport({{"model", scratch.path()}, {"output", scratch / "x.xhy"}}),
              FailsWith(XH_CORRUPT, "config.json is not valid JSON"));
}

// ---- saving and loading ----

TEST(Save, ComesBackBitForBit) {
  auto teacher = LoadTeacher("hf_qwen2");
  for (const char* kind : {"hybrid", "mlstm", "window", "attention"}) {
    Scratch scratch;
    auto student = MakeStudent(*teacher, {{"kind", kind}, {"feature_map", "hedgehog"}, {"window", 9}});
    ModelFiles files = FilesOf(*student);
    files.tokenizer["tokenizer_config.json"] = "{}";
    files.history = json::parse(R"([{"stage": "align", "steps": 3}])");
    auto writer = CheckpointWriter::Open(scratch / "student.xhy");
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(AddModel(**writer, student->config, student->weights, *student->device, files).ok());
    // State of training lies beside the parameters and does not disturb.
    const float moment[2] = {1, 2};
    ASSERT_TRUE((*writer)->AddTensor("optimizer/first/model.norm.weight", XH_F32, {2}, moment).ok());
    ASSERT_TRUE((*writer)->Commit().ok());
    auto loaded = Model::Load(CpuRuntime(), scratch / "student.xhy");
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ((*loaded)->history, files.history);
    EXPECT_EQ((*loaded)->tokenizer_files, files.tokenizer);
    EXPECT_EQ((*loaded)->huggingface_files, teacher->huggingface_files);
    std::vector<std::string> names;
    for (const ParameterSpec& spec : ParametersOf(student->config)) {
      EXPECT_EQ(WeightBytes(**loaded, spec.name), WeightBytes(*student, spec.name)) << spec.name;
      names.push_back(spec.name);
    }
    EXPECT_EQ((*loaded)->weights.size(), names.size());
    const std::vector<int32_t> ids = ExpectedIds("hf_qwen2", "input_ids");
    EXPECT_EQ(Forward(**loaded, ids, 2).logits, Forward(*student, ids, 2).logits) << kind;
  }
}

TEST(Load, RefusesCheckpointsThatHoldNoModelOrContradictThemselves) {
  auto teacher = LoadTeacher("hf_llama");
  Scratch scratch;
  auto write = [&](const std::string& name, const std::function<void(CheckpointWriter&)>& change) {
    auto writer = CheckpointWriter::Open(scratch / name);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(AddModel(**writer, teacher->config, teacher->weights, *teacher->device, {}).ok());
    change(**writer);
    ASSERT_TRUE((*writer)->Commit().ok());
  };
  write("layers.xhy", [](CheckpointWriter& writer) { writer.AddLayer({"hybrid", {}}); });
  EXPECT_THAT(Model::Load(CpuRuntime(), scratch / "layers.xhy"), FailsWith(XH_CORRUPT, "contradicts the config"));
  write("config.xhy", [](CheckpointWriter& writer) { writer.SetMetadata(kConfigKey, "{\"family\""); });
  EXPECT_THAT(Model::Load(CpuRuntime(), scratch / "config.xhy"), FailsWith(XH_CORRUPT, "not valid JSON"));
  write("extra.xhy", [](CheckpointWriter& writer) {
    const float value = 0;
    ASSERT_TRUE(writer.AddTensor("surplus", XH_F32, {1}, &value).ok());
  });
  EXPECT_THAT(Model::Load(CpuRuntime(), scratch / "extra.xhy"),
              FailsWith(XH_INCOMPATIBLE, "\"surplus\" belongs to no"));
  auto writer = CheckpointWriter::Open(scratch / "none.xhy");
  ASSERT_TRUE(writer.ok() && (*writer)->Commit().ok());
  EXPECT_THAT(Model::Load(CpuRuntime(), scratch / "none.xhy"), FailsWith(XH_INCOMPATIBLE, "without a model"));
}

TEST(Load, RefusesWhatIsNoModel) {
  Scratch scratch;
  EXPECT_THAT(Model::Load(CpuRuntime(), scratch.path()), FailsWith(XH_NOT_FOUND, "is no model"));
  EXPECT_THAT(Model::Load(CpuRuntime(), scratch / "missing"), FailsWith(XH_NOT_FOUND, "missing"));
  EXPECT_THAT(Model::Load(CpuRuntime(), ""), FailsWith(XH_INVALID_ARGUMENT, "empty"));
  EXPECT_THAT(Model::Load(CpuRuntime(), TeacherPath("hf_llama"), XH_F16), FailsWith(XH_INVALID_ARGUMENT, "f16"));
  WriteBytes(scratch / "manifest.xhy", "garbage");
  EXPECT_THAT(Model::Load(CpuRuntime(), scratch.path()), FailsWith(XH_CORRUPT, "manifest.xhy"));
}

TEST(Load, RefusesAdaptersByName) {
  Scratch scratch;
  WriteBytes(scratch / "adapter_config.json", "{}");
  EXPECT_THAT(Model::Load(CpuRuntime(), scratch.path()), FailsWith(XH_UNSUPPORTED, "adapter_config.json"));
  WriteBytes(scratch / "config.json", ReadBytes(TeacherPath("hf_llama") + "/config.json"));
  EXPECT_THAT(Model::Load(CpuRuntime(), scratch.path()), FailsWith(XH_UNSUPPORTED, "merged into its base"));
}

TEST(Describe, CountsParametersMixersAndBytes) {
  auto student =
      MakeStudent(*LoadTeacher("hf_llama"), json::parse(R"({"layers": [{"layer": 1, "kind": "attention"}]})"));
  const json about = student->Describe();
  const int64_t added = 2 * (2 * 4 * 16 * 16 + 2 * (4 * 64 + 4) + 4 * 48 + 4);
  EXPECT_EQ(about["new_parameters"], added);
  EXPECT_EQ(about["parameters"], LoadTeacher("hf_llama")->Describe()["parameters"].get<int64_t>() + added);
  EXPECT_EQ(about["weight_bytes"], about["parameters"].get<int64_t>() * 4);
  EXPECT_EQ(about["mixers"], json::parse(R"({"hybrid": 2, "attention": 1})"));
  EXPECT_EQ(about["family"], "llama");
}

}  // namespace
}  // namespace xh::test
