#include "tests/model/model_fixture.h"

#include <cmath>
#include <random>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/safetensors.h"

namespace xh::test {
namespace {

template <typename T>
std::vector<T> ExpectedRaw(const std::string& teacher, const std::string& name) {
  auto reader = SafetensorsReader::Open(TeacherPath(teacher) + "/expected.safetensors");
  EXPECT_TRUE(reader.ok()) << reader.status();
  const SafeTensor* tensor = (*reader)->Find(name);
  EXPECT_NE(tensor, nullptr) << name;
  std::vector<T> values(static_cast<size_t>(tensor->bytes) / sizeof(T));
  EXPECT_TRUE((*reader)->Read(name, values.data(), tensor->bytes).ok());
  return values;
}

std::vector<float> ReadValue(Graph& graph, Value value) {
  std::vector<float> out(static_cast<size_t>(graph.size(value)));
  const Status read = graph.Read(value, out.data(), static_cast<int64_t>(out.size() * sizeof(float)));
  EXPECT_TRUE(read.ok()) << read;
  return out;
}

std::shared_ptr<Runtime> OpenCpu(int32_t threads) {
  RuntimeOptions options;
  options.device = "cpu";
  options.threads = threads;
  auto opened = Runtime::Open(options);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return *opened;
}

}  // namespace

const std::shared_ptr<Runtime>& CpuRuntime() {
  static const std::shared_ptr<Runtime> runtime = OpenCpu(0);
  return runtime;
}

std::shared_ptr<const Model> LoadTeacher(const std::string& name, xh_dtype dtype) {
  auto model = Model::Load(CpuRuntime(), TeacherPath(name), dtype);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *model : nullptr;
}

std::vector<float> ExpectedFloats(const std::string& teacher, const std::string& tensor) {
  return ExpectedRaw<float>(teacher, tensor);
}

std::vector<int32_t> ExpectedIds(const std::string& teacher, const std::string& tensor) {
  const std::vector<int64_t> ids = ExpectedRaw<int64_t>(teacher, tensor);
  return std::vector<int32_t>(ids.begin(), ids.end());
}

std::vector<float> RandomValues(int64_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(engine()) * 0x1p-31f - 1.0f;
  return values;
}

Weight NewWeight(const Model& model, const Shape& shape, const std::vector<float>& values) {
  const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(float));
  auto buffer = model.device->Allocate(bytes);
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  EXPECT_TRUE(model.device->Copy(buffer->data(), values.data(), bytes).ok());
  EXPECT_TRUE(model.device->Synchronize().ok());
  return {XH_F32, shape, std::make_shared<Buffer>(*std::move(buffer))};
}

std::vector<float> ReadWeight(const Model& model, const std::string& name) {
  const Weight& weight = model.weights.at(name);
  EXPECT_EQ(weight.dtype, XH_F32);
  std::vector<float> values(static_cast<size_t>(weight.buffer->bytes()) / sizeof(float));
  EXPECT_TRUE(model.device->Copy(values.data(), weight.buffer->data(), weight.buffer->bytes()).ok());
  EXPECT_TRUE(model.device->Synchronize().ok());
  return values;
}

std::shared_ptr<const Model> MakeStudent(const Model& teacher, const nlohmann::json& options, uint32_t seed) {
  auto student = std::make_shared<Model>(teacher);
  auto config = StudentConfig(teacher.config, options);
  EXPECT_TRUE(config.ok()) << config.status();
  student->config = *config;
  for (const ParameterSpec& spec : ParametersOf(*config)) {
    if (spec.init == Init::kFromTeacher) continue;
    auto values = InitialValue(spec);
    EXPECT_TRUE(values.ok()) << values.status();
    const std::vector<float> noise = RandomValues(static_cast<int64_t>(values->size()), ++seed);
    for (size_t i = 0; i < noise.size(); ++i) (*values)[i] += 0.5f * noise[i];
    student->weights[spec.name] = NewWeight(teacher, spec.shape, *values);
  }
  return student;
}

std::shared_ptr<const Model> RandomModel(const ModelConfig& config, uint32_t seed) {
  auto model = std::make_shared<Model>();
  static const std::shared_ptr<Runtime> runtime = OpenCpu(1);
  auto device = runtime->OpenDevice();
  EXPECT_TRUE(device.ok()) << device.status();
  model->device = *device;
  model->config = config;
  for (const ParameterSpec& spec : ParametersOf(config)) {
    int64_t count = 1;
    for (int64_t extent : spec.shape) count *= extent;
    std::vector<float> values = RandomValues(count, ++seed);
    const double width = static_cast<double>(spec.shape.back());
    for (float& value : values) {
      // Norm weights around 1, matrices that keep the size of what they multiply.
      value = spec.shape.size() == 1 && spec.name.find("norm") != std::string::npos
                  ? 1 + 0.3f * value
                  : static_cast<float>(1.5 / std::sqrt(width)) * value;
    }
    model->weights[spec.name] = NewWeight(*model, spec.shape, values);
  }
  return model;
}

Results Forward(const Model& model, const std::vector<int32_t>& ids, int64_t batch,
                const std::vector<int32_t>& starts) {
  Results results;
  const ModelConfig& config = model.config;
  Graph graph(model.device);
  ForwardInput input;
  input.batch = batch;
  input.tokens = static_cast<int64_t>(ids.size()) / batch;
  input.ids = graph.Input(XH_I32, {static_cast<int64_t>(ids.size())});
  input.position = graph.Input(XH_I32, {starts.empty() ? batch : batch * input.tokens});
  input.rope_table = graph.Input(XH_F32, RopeTableShape(config, input.tokens));
  if (!starts.empty()) input.start = graph.Input(XH_I32, {batch, input.tokens});
  const Binder bind = FrozenBinder(model);
  const ForwardOutput output = BuildForward(graph, config, bind, input);
  const Value logits = BuildLogits(graph, config, bind, output.final_hidden);
  graph.Keep(logits);
  for (Value hidden : output.hidden) graph.Keep(hidden);
  for (const LayerTaps& taps : output.layers) graph.Keep(taps.mixer_out);
  const Status compiled = graph.Compile();
  EXPECT_TRUE(compiled.ok()) << compiled;
  if (!compiled.ok()) return results;

  const std::vector<float> table = RopeTable(config, input.tokens);
  std::vector<int32_t> positions(static_cast<size_t>(graph.size(input.position)), 0);
  for (size_t i = 0; i < starts.size(); ++i) {
    positions[i] = static_cast<int32_t>(i % static_cast<size_t>(input.tokens)) - starts[i];
  }
  EXPECT_TRUE(graph.Write(input.ids, ids.data(), static_cast<int64_t>(ids.size() * sizeof(int32_t))).ok());
  EXPECT_TRUE(
      graph.Write(input.position, positions.data(), static_cast<int64_t>(positions.size() * sizeof(int32_t))).ok());
  EXPECT_TRUE(graph.Write(input.rope_table, table.data(), static_cast<int64_t>(table.size() * sizeof(float))).ok());
  if (!starts.empty()) {
    EXPECT_TRUE(graph.Write(input.start, starts.data(), static_cast<int64_t>(starts.size() * sizeof(int32_t))).ok());
  }
  const Status run = graph.Run();
  EXPECT_TRUE(run.ok()) << run;
  results.logits = ReadValue(graph, logits);
  for (Value hidden : output.hidden) results.hidden.push_back(ReadValue(graph, hidden));
  for (const LayerTaps& taps : output.layers) {
    results.mixer_out.push_back(ReadValue(graph, graph.MergeHeads(taps.mixer_out)));
  }
  return results;
}

double RelativeError(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  if (got.size() != want.size()) return INFINITY;
  double difference = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    size += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(difference / size);
}

std::vector<float> RowOf(const std::vector<float>& matrix, int64_t row, int64_t width) {
  return std::vector<float>(matrix.begin() + row * width, matrix.begin() + (row + 1) * width);
}

}  // namespace xh::test
