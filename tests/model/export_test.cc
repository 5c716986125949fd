// A model's way out to a Hugging Face directory and back: the same bytes, or nothing at all.
#include "core/model/export.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/safetensors.h"
#include "core/model/export/huggingface_writer.h"
#include "core/model/import.h"
#include "core/model/save.h"
#include "core/model/source.h"
#include "tests/checkpoint/scratch.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

constexpr const char* kPythonFiles[] = {"configuration_xhybrid.py", "mixers_xhybrid.py", "modeling_xhybrid.py"};

StatusOr<json> RunJob(StatusOr<std::unique_ptr<Job>> job, std::vector<json>* events = nullptr) {
  if (!job.ok()) return job.status();
  for (bool finished = false; !finished;) {
    json event;
    XH_ASSIGN_OR_RETURN(finished, (*job)->Next(&event));
    if (events != nullptr) events->push_back(event);
  }
  return (*job)->Result();
}

StatusOr<json> RunExport(const json& recipe, std::vector<json>* events = nullptr) {
  return RunJob(OpenExportJob(CpuRuntime(), recipe), events);
}
StatusOr<json> RunImport(const json& recipe) { return RunJob(OpenImportJob(CpuRuntime(), recipe)); }

std::vector<std::string> TeacherNames() {
  return {"hf_llama", "hf_llama3_rope_tied", "hf_qwen2", "hf_qwen3", "hf_olmo2", "hf_olmo3"};
}

// A checkpoint with files of a tokenizer and a history.
Status Save(
    const Model& model, const std::string& path, const std::function<void(ModelFiles&)>& change = [](ModelFiles&) {}) {
  ModelFiles files = FilesOf(model);
  files.tokenizer["tokenizer.json"] = "{\"version\": \"1.0\"}";
  files.tokenizer["tokenizer.model"] = std::string("\0\xff bytes", 8);
  files.history = json::parse(R"([{"kind": "import", "model": "t"}, {"stage": "align", "steps": 3}])");
  change(files);
  XH_ASSIGN_OR_RETURN(auto writer, CheckpointWriter::Open(path));
  XH_RETURN_IF_ERROR(AddModel(*writer, model.config, model.weights, *model.device, files));
  return writer->Commit();
}

std::shared_ptr<const Model> MixedStudent(const std::string& teacher) {
  return MakeStudent(*LoadTeacher(teacher), json::parse(R"({"window": 9, "layers": [
      {"layer": 0, "kind": "window", "window": [5, 7]}, {"layer": 1, "kind": "mlstm", "feature_map": "none"},
      {"layer": 2, "window": [0, 9]}]})"));
}

void ExpectSameFiles(const std::string& got, const std::string& want) {
  ASSERT_EQ(List(got), List(want));
  for (const std::string& name : List(want)) EXPECT_EQ(ReadBytes(got + "/" + name), ReadBytes(want + "/" + name));
}

void ExpectSameTensors(const std::string& got, const std::string& want) {
  auto a = SafetensorsReader::Open(got), b = SafetensorsReader::Open(want);
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  ASSERT_EQ((*a)->tensors().size(), (*b)->tensors().size());
  for (const SafeTensor& tensor : (*b)->tensors()) {
    const SafeTensor* other = (*a)->Find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(other->dtype, tensor.dtype);
    EXPECT_EQ(other->shape, tensor.shape);
    EXPECT_EQ(std::memcmp(*(*a)->View(tensor.name), *(*b)->View(tensor.name), tensor.bytes), 0) << tensor.name;
  }
}

json ReadJson(const std::string& path) {
  json parsed = json::parse(ReadBytes(path), nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << path;
  return parsed;
}

// ---- the way out and back ----

TEST(Export, OfATeacherGivesTheDirectoryItCameFrom) {
  for (const std::string& name : TeacherNames()) {
    SCOPED_TRACE(name);
    Scratch scratch;
    ASSERT_TRUE(RunImport({{"model", TeacherPath(name)}, {"output", scratch / "teacher.xhy"}}).ok());
    std::vector<json> events;
    auto result = RunExport({{"model", scratch / "teacher.xhy"}, {"output", scratch / "out"}}, &events);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(List(scratch / "out"),
              (std::vector<std::string>{"config.json", "generation_config.json", "model.safetensors"}));
    for (const char* file : {"config.json", "generation_config.json"}) {
      EXPECT_EQ(ReadBytes(scratch / "out/" + file), ReadBytes(TeacherPath(name) + "/" + file));
    }
    ExpectSameTensors(scratch / "out", TeacherPath(name) + "/model.safetensors");
    EXPECT_EQ((*result)["needs_code"], false);
    EXPECT_EQ((*result)["shards"], 1);
    ASSERT_EQ(events.size(), (*result)["tensors"].get<size_t>() + 1);
    EXPECT_EQ(events[0]["name"], "model.embed_tokens.weight");
    EXPECT_EQ(events.back(), (json{{"kind", "saved"}, {"path", scratch / "out"}}));
  }
}

TEST(Export, OfAStudentComesBackAsTheSameCheckpointBitForBit) {
  for (const std::string& name : TeacherNames()) {
    for (int64_t shard_size : {int64_t{5'000'000'000}, int64_t{100'000}, int64_t{1}}) {
      SCOPED_TRACE(absl::StrCat(name, " in shards of ", shard_size));
      Scratch scratch;
      ASSERT_TRUE(Save(*MixedStudent(name), scratch / "student.xhy").ok());
      auto result =
          RunExport({{"model", scratch / "student.xhy"}, {"output", scratch / "out"}, {"shard_size", shard_size}});
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ((*result)["needs_code"], true);
      auto back = RunImport({{"model", scratch / "out"}, {"output", scratch / "back.xhy"}});
      ASSERT_TRUE(back.ok()) << back.status();
      ExpectSameFiles(scratch / "back.xhy", scratch / "student.xhy");
      // From a directory it is a copy, in shards of any size.
      ASSERT_TRUE(RunExport({{"model", scratch / "out"}, {"output", scratch / "copy"}}).ok());
      EXPECT_EQ(ReadBytes(scratch / "copy/config.json"), ReadBytes(scratch / "out/config.json"));
      ExpectSameTensors(scratch / "copy", scratch / "out");
    }
  }
}

TEST(Export, OfAStudentIsAModelLikeAnyOther) {
  auto student = MixedStudent("hf_llama");
  Scratch scratch;
  ASSERT_TRUE(Save(*student, scratch / "student.xhy").ok());
  ASSERT_TRUE(RunExport({{"model", scratch / "student.xhy"}, {"output", scratch / "out"}}).ok());
  auto loaded = Model::Load(CpuRuntime(), scratch / "out");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const std::vector<int32_t> ids = ExpectedIds("hf_llama", "input_ids");
  EXPECT_EQ(Forward(**loaded, ids, 2).logits, Forward(*student, ids, 2).logits);
}

TEST(Export, OfAStudentDescribesItAndCarriesTheCodeThatRunsIt) {
  auto student = MixedStudent("hf_qwen2");
  Scratch scratch;
  ASSERT_TRUE(Save(*student, scratch / "student.xhy").ok());
  ASSERT_TRUE(RunExport({{"model", scratch / "student.xhy"}, {"output", scratch / "out"}}).ok());
  const json config = ReadJson(scratch / "out/config.json");
  json rest = json::parse(ReadBytes(TeacherPath("hf_qwen2") + "/config.json"));
  EXPECT_EQ(config["model_type"], "xhybrid");
  EXPECT_EQ(config["architectures"], json::array({"XhybridForCausalLM"}));
  EXPECT_EQ(config["auto_map"]["AutoConfig"], "configuration_xhybrid.XhybridConfig");
  EXPECT_EQ(config["auto_map"]["AutoModelForCausalLM"], "modeling_xhybrid.XhybridForCausalLM");
  EXPECT_EQ(config["xhybrid"]["mixers"], ConfigToJson(student->config)["mixers"]);
  for (const char* own : {"model_type", "architectures"}) rest.erase(own);
  for (const auto& [key, value] : rest.items()) EXPECT_EQ(config[key], value) << key;
  for (const char* file : kPythonFiles) {
    EXPECT_EQ(ReadBytes(scratch / "out/" + file), ReadBytes(std::string(XH_SOURCE_DIR) + "/core/model/export/" + file));
  }
  EXPECT_EQ(ReadBytes(scratch / "out/tokenizer.model"), std::string("\0\xff bytes", 8));
}

TEST(Export, OfAStudentWithTheTeachersMixersIsOfTheTeachersFamily) {
  Scratch scratch;
  auto student = MakeStudent(*LoadTeacher("hf_llama"), {{"kind", "attention"}});
  ASSERT_TRUE(Save(*student, scratch / "student.xhy").ok());
  auto result = RunExport({{"model", scratch / "student.xhy"}, {"output", scratch / "out"}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["needs_code"], false);
  EXPECT_EQ(ReadBytes(scratch / "out/config.json"), ReadBytes(TeacherPath("hf_llama") + "/config.json"));
}

// ---- element types ----

TEST(Export, ConvertsOnRequestAndSaysSoInTheConfig) {
  Scratch scratch;
  ASSERT_TRUE(Save(*MixedStudent("hf_llama"), scratch / "student.xhy").ok());
  for (const std::string& model : {TeacherPath("hf_llama"), scratch / "student.xhy"}) {
    auto result = RunExport({{"model", model}, {"output", scratch / "out"}, {"dtype", "bf16"}, {"replace", true}});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(ReadJson(scratch / "out/config.json")["dtype"], "bfloat16");
    auto got = Model::Load(CpuRuntime(), scratch / "out"), want = Model::Load(CpuRuntime(), model, XH_BF16);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ((*got)->weights.at("model.norm.weight").dtype, XH_BF16);
    const std::vector<int32_t> ids = ExpectedIds("hf_llama", "input_ids");
    const std::vector<int32_t> sixteen(ids.begin(), ids.begin() + 16);
    EXPECT_EQ(Forward(**got, sixteen, 1).logits, Forward(**want, sixteen, 1).logits);
    // Back to f32: the config is the teacher's again, to the byte.
    ASSERT_TRUE(
        RunExport({{"model", scratch / "out"}, {"output", scratch / "wide"}, {"dtype", "f32"}, {"replace", true}})
            .ok());
    EXPECT_EQ(ReadJson(scratch / "wide/config.json")["dtype"], "float32");
  }
  const std::string teacher = ReadBytes(TeacherPath("hf_llama") + "/config.json");
  EXPECT_EQ(OpenHuggingFace(scratch / "out")->huggingface_files.at("config.json"), teacher);
}

TEST(Export, CorrectsEitherSpellingOfTheDTypeAndAddsNone) {
  auto teacher = LoadTeacher("hf_llama");
  const json original = json::parse(teacher->huggingface_files.at("config.json"));
  for (const char* key : {"dtype", "torch_dtype", "none"}) {
    Scratch scratch;
    json config = original;
    config.erase("dtype");
    if (std::string(key) != "none") config[key] = "float16";
    ASSERT_TRUE(Save(*teacher, scratch / "a.xhy", [&](ModelFiles& files) {
                  files.huggingface["config.json"] = config.dump();
                }).ok());
    ASSERT_TRUE(RunExport({{"model", scratch / "a.xhy"}, {"output", scratch / "out"}}).ok());
    if (std::string(key) != "none") config[key] = "float32";
    EXPECT_EQ(ReadJson(scratch / "out/config.json"), config);
  }
}

// ---- files ----

TEST(Shards, HoldWhatFitsAndALargerTensorAlone) {
  auto plan = [](const std::vector<int64_t>& sizes, int64_t most) {
    std::vector<SafeTensor> tensors;
    for (int64_t bytes : sizes) tensors.push_back({"t", XH_U8, {bytes}, bytes});
    std::vector<std::pair<std::string, size_t>> shards;
    for (const Shard& shard : PlanShards(tensors, most)) shards.emplace_back(shard.file, shard.count);
    return shards;
  };
  using Shards = std::vector<std::pair<std::string, size_t>>;
  EXPECT_EQ(plan({4, 3, 3}, 10), (Shards{{"model.safetensors", 3}}));
  EXPECT_EQ(plan({4, 3, 4, 6}, 10),
            (Shards{{"model-00001-of-00002.safetensors", 2}, {"model-00002-of-00002.safetensors", 2}}));
  EXPECT_EQ(plan({4, 30, 4}, 10), (Shards{{"model-00001-of-00003.safetensors", 1},
                                          {"model-00002-of-00003.safetensors", 1},
                                          {"model-00003-of-00003.safetensors", 1}}));
  EXPECT_TRUE(plan({}, 10).empty());
}

TEST(Export, WritesAnIndexBesideItsShards) {
  Scratch scratch;
  auto result = RunExport({{"model", TeacherPath("hf_llama")}, {"output", scratch / "out"}, {"shard_size", 200'000}});
  ASSERT_TRUE(result.ok()) << result.status();
  const json index = ReadJson(scratch / "out/model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], (*result)["bytes"]);
  EXPECT_EQ(index["weight_map"].size(), (*result)["tensors"]);
  ASSERT_GT((*result)["shards"], 1);
  for (const auto& [name, file] : index["weight_map"].items()) {
    const std::string path = scratch / "out/" + file.get<std::string>();
    EXPECT_LE(std::filesystem::file_size(path), 200'000u + 8'192u);  // and a header
    auto reader = SafetensorsReader::Open(path);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_NE((*reader)->Find(name), nullptr);
    EXPECT_EQ((*reader)->file_metadata().at("format"), "pt");
  }
}

// ---- all or nothing ----

TEST(Export, ReplacesOnlyOnRequestAndOnlyModels) {
  Scratch scratch;
  json recipe = {{"model", TeacherPath("hf_llama")}, {"output", scratch / "out"}};
  ASSERT_TRUE(RunExport(recipe).ok());
  EXPECT_THAT(RunExport(recipe), FailsWith(XH_INVALID_STATE, "out exists"));
  recipe["model"] = TeacherPath("hf_qwen2");
  recipe["replace"] = true;
  recipe["shard_size"] = 100'000;
  ASSERT_TRUE(RunExport(recipe).ok());
  EXPECT_EQ((*Model::Load(CpuRuntime(), scratch / "out"))->config.family, "qwen2");
  recipe.erase("shard_size");
  ASSERT_TRUE(RunExport(recipe).ok());  // over shards
  EXPECT_FALSE(std::filesystem::exists(scratch / "out/model.safetensors.index.json"));
  std::filesystem::create_directory(scratch / "other");
  WriteBytes(scratch / "other/config.json", "{}");
  recipe["output"] = scratch / "other";
  EXPECT_THAT(RunExport(recipe), FailsWith(XH_INVALID_STATE, "is not replaced"));
  EXPECT_EQ(List(scratch / "other"), std::vector<std::string>{"config.json"});
}

TEST(Export, MayReplaceTheDirectoryItReads) {
  Scratch scratch;
  ASSERT_TRUE(RunExport({{"model", TeacherPath("hf_llama")}, {"output", scratch / "out"}}).ok());
  auto result =
      RunExport({{"model", scratch / "out"}, {"output", scratch / "out"}, {"shard_size", 100'000}, {"replace", true}});
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectSameTensors(scratch / "out", TeacherPath("hf_llama") + "/model.safetensors");
  EXPECT_EQ(List(scratch.path()), std::vector<std::string>{"out"});
}

TEST(Export, OfADryRunWritesNothing) {
  Scratch scratch;
  std::vector<json> events;
  auto result =
      RunExport({{"model", TeacherPath("hf_llama")}, {"output", scratch / "out"}, {"dry_run", true}}, &events);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["kind"], "checked");
  EXPECT_TRUE(List(scratch.path()).empty());
  EXPECT_FALSE(result->contains("output"));
}

TEST(Export, ThatIsCancelledLeavesNothing) {
  Scratch scratch;
  auto job = OpenExportJob(CpuRuntime(), {{"model", TeacherPath("hf_llama")}, {"output", scratch / "out"}});
  ASSERT_TRUE(job.ok()) << job.status();
  json event;
  ASSERT_TRUE((*job)->Next(&event).ok());
  (*job)->Cancel();
  EXPECT_THAT((*job)->Next(&event), FailsWith(XH_CANCELLED, "nothing was written"));
  EXPECT_TRUE(List(scratch.path()).empty());
}

int storage_steps_left = 0;
int FailAtLast(const char*) { return storage_steps_left-- == 0 ? ENOSPC : 0; }

TEST(Export, LeavesNothingWhateverStorageCallFails) {
  Scratch scratch;
  ASSERT_TRUE(Save(*MixedStudent("hf_llama"), scratch / "student.xhy").ok());
  const json recipe = {{"model", scratch / "student.xhy"}, {"output", scratch / "out"}, {"shard_size", 300'000}};
  int steps = 0;
  for (bool done = false; !done; ++steps) {
    ASSERT_LT(steps, 1000);
    storage_steps_left = steps;
    SetStorageHook(FailAtLast);
    auto result = RunExport(recipe);
    SetStorageHook(nullptr);
    done = result.ok();
    if (done) break;
    EXPECT_EQ(CodeOf(result.status()), XH_IO) << result.status();
    if (std::string(result.status().message()).find("is in place") != std::string::npos) break;  // the last one
    EXPECT_EQ(List(scratch.path()), std::vector<std::string>{"student.xhy"}) << "after " << steps << " calls";
  }
  EXPECT_GT(steps, 60);
  EXPECT_TRUE(Model::Load(CpuRuntime(), scratch / "out").ok());
}

TEST(Export, RefusesWeightsThatAreNotFiniteByNameAndLeavesNothing) {
  auto teacher = std::make_shared<Model>(*LoadTeacher("hf_llama"));
  std::vector<float> norm(64, 1.0f);
  norm[5] = NAN;
  teacher->weights["model.norm.weight"] = NewWeight(*teacher, {64}, norm);
  Scratch scratch;
  ASSERT_TRUE(Save(*teacher, scratch / "a.xhy").ok());
  EXPECT_THAT(RunExport({{"model", scratch / "a.xhy"}, {"output", scratch / "out"}}),
              FailsWith(XH_CORRUPT, "tensor \"model.norm.weight\" holds NaN at element 5"));
  EXPECT_EQ(List(scratch.path()), std::vector<std::string>{"a.xhy"});
}

// ---- what is refused ----

TEST(Export, RefusesFilesThatAnImportWouldNotRead) {
  auto teacher = LoadTeacher("hf_llama");
  const struct {
    std::function<void(ModelFiles&)> change;
    xh_code code;
    const char* part;
  } cases[] = {
      {[](ModelFiles& files) { files.tokenizer["config.json"] = "{}"; }, XH_UNSUPPORTED,
       "tokenizer file \"config.json\""},
      {[](ModelFiles& files) { files.tokenizer["../../etc/passwd"] = ""; }, XH_UNSUPPORTED, "\"../../etc/passwd\""},
      {[](ModelFiles& files) { files.huggingface["modeling.py"] = ""; }, XH_UNSUPPORTED, "file \"modeling.py\""},
      {[](ModelFiles& files) { files.huggingface.erase("config.json"); }, XH_INCOMPATIBLE, "no config.json"},
      {[](ModelFiles& files) { files.huggingface["config.json"] = "{"; }, XH_INVALID_ARGUMENT, "config.json"},
      {[](ModelFiles& files) { files.huggingface["config.json"] = "{\"model_type\": \"gpt2\"}"; }, XH_UNSUPPORTED,
       "\"gpt2\""},
  };
  for (const auto& bad : cases) {
    Scratch scratch;
    ASSERT_TRUE(Save(*teacher, scratch / "a.xhy", bad.change).ok());
    EXPECT_THAT(RunExport({{"model", scratch / "a.xhy"}, {"output", scratch / "out"}}), FailsWith(bad.code, bad.part));
    EXPECT_EQ(List(scratch.path()), std::vector<std::string>{"a.xhy"});
  }
}

TEST(Export, RefusesBadRecipes) {
  Scratch scratch;
  const std::string teacher = TeacherPath("hf_llama");
  EXPECT_THAT(RunExport({{"output", "x"}}), FailsWith(XH_INVALID_ARGUMENT, "\"model\""));
  EXPECT_THAT(RunExport({{"model", teacher}}), FailsWith(XH_INVALID_ARGUMENT, "\"output\""));
  EXPECT_THAT(RunExport({{"model", teacher}, {"output", "x"}, {"dtype", "f64"}}),
              FailsWith(XH_INVALID_ARGUMENT, "\"f64\""));
  EXPECT_THAT(RunExport({{"model", teacher}, {"output", "x"}, {"shard_size", 0}}),
              FailsWith(XH_INVALID_ARGUMENT, "\"shard_size\" is 0"));
  EXPECT_THAT(RunExport({{"model", scratch / "none"}, {"output", scratch / "x"}}), FailsWith(XH_NOT_FOUND, "none"));
  EXPECT_THAT(RunExport({{"model", teacher}, {"output", scratch / "no/x"}}), FailsWith(XH_NOT_FOUND, "no"));
}

TEST(Import, RefusesExportedConfigsThatItDoesNotUnderstand) {
  Scratch scratch;
  ASSERT_TRUE(Save(*MixedStudent("hf_llama"), scratch / "student.xhy").ok());
  ASSERT_TRUE(RunExport({{"model", scratch / "student.xhy"}, {"output", scratch / "out"}}).ok());
  const json config = ReadJson(scratch / "out/config.json");
  const struct {
    std::function<void(json&)> change;
    xh_code code;
    const char* part;
  } cases[] = {
      {[](json& c) { c.erase("xhybrid"); }, XH_INVALID_ARGUMENT, "xhybrid"},
      {[](json& c) { c["xhybrid"] = 3; }, XH_INVALID_ARGUMENT, "xhybrid"},
      {[](json& c) { c["xhybrid"]["format"] = 2; }, XH_UNSUPPORTED, "\"format\" is 2; allowed: 1"},
      {[](json& c) { c["xhybrid"].erase("format"); }, XH_INVALID_ARGUMENT, "\"format\""},
      {[](json& c) { c["xhybrid"].erase("teacher_config"); }, XH_INVALID_ARGUMENT, "\"teacher_config\""},
      {[](json& c) { c["xhybrid"]["history"] = "long"; }, XH_INVALID_ARGUMENT, "\"history\""},
      {[](json& c) { c["xhybrid"]["mixers"][0]["kind"] = "rwkv"; }, XH_INVALID_ARGUMENT, "\"rwkv\""},
      {[](json& c) { c["xhybrid"]["hidden_size"] = 65; }, XH_INCOMPATIBLE, "has shape"},
  };
  for (const auto& bad : cases) {
    json changed = config;
    bad.change(changed);
    WriteBytes(scratch / "out/config.json", changed.dump());
    EXPECT_THAT(OpenHuggingFace(scratch / "out"), FailsWith(bad.code, bad.part));
  }
  WriteBytes(scratch / "out/config.json", "{\"model_type\": \"xhybrid\"");
  EXPECT_THAT(OpenHuggingFace(scratch / "out"), FailsWith(XH_CORRUPT, "config.json"));
}

}  // namespace
}  // namespace xh::test
