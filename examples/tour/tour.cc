// A tour of libxhybrid in C++17: a checkpoint's tensor, a streamed answer, an evaluation against the teacher, a merge.
//
//   tour TEACHER STUDENT_A STUDENT_B TASK.jsonl MERGED
//
// tour.c, tour.py, tour.rs and Tour.java are the same program and print the same bytes.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "xhybrid.hpp"

namespace {

using nlohmann::json;

constexpr char kTensor[] = "model.norm.weight";

double WidenBf16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

double WidenF16(uint16_t half) {
  const int exponent = (half >> 10) & 31, fraction = half & 1023;
  const double sign = half >> 15 ? -1.0 : 1.0;
  if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

template <typename Stored, typename Widen>
double SumOf(const xh_tensor& tensor, Widen widen) {
  int64_t count = 1;
  for (int32_t i = 0; i < tensor.rank; ++i) count *= tensor.shape[i];
  const auto* values = static_cast<const Stored*>(tensor.data);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += widen(values[i]);
  return sum;
}

// The sum in double, in index order. A checkpoint's tensors are contiguous.
double Sum(const xh_tensor& tensor) {
  switch (tensor.dtype) {
    case XH_F32:
      return SumOf<float>(tensor, [](float value) { return static_cast<double>(value); });
    case XH_F16:
      return SumOf<uint16_t>(tensor, WidenF16);
    case XH_BF16:
      return SumOf<uint16_t>(tensor, WidenBf16);
    default:
      throw std::runtime_error("the tensor holds no floats");
  }
}

const char* NameOf(xh_dtype dtype) { return dtype == XH_F32 ? "f32" : dtype == XH_F16 ? "f16" : "bf16"; }

void ShowTensor(const xh::Runtime& runtime, const std::string& path) {
  const xh::Checkpoint checkpoint = runtime.open(path);
  checkpoint.verify();                                  // every byte of every file
  const xh_tensor tensor = checkpoint.tensor(kTensor);  // a view of the mapped file
  std::string shape;
  for (int32_t i = 0; i < tensor.rank; ++i) shape += (i > 0 ? "," : "") + std::to_string(tensor.shape[i]);
  std::printf("tensor %s %s [%s] sum %.6f\n", kTensor, NameOf(tensor.dtype), shape.c_str(), Sum(tensor));
}

// Prints token ids as they come and the text behind them.
void Stream(xh::Session& session) {
  std::string text;
  std::printf("tokens");
  for (bool finished = false; !finished;) {
    const xh::Token token = session.next();
    finished = token.finished;
    std::printf(" %d", token.id);
    std::fflush(stdout);
    for (const char c : token.piece) text += c == '\n' ? "\\n" : std::string(1, c);
  }
  std::printf("\ntext %s\n", text.c_str());
}

void Answer(const xh::Runtime& runtime, const std::string& path) {
  const xh::Model model = runtime.load(path);
  const std::vector<int32_t> ids = model.encode(model.chat({{"user", "What is 7 times 5?"}}), /*add_special=*/true);
  std::printf("prompt");
  for (const int32_t id : ids) std::printf(" %d", id);
  std::printf("\n");
  xh::Session session = model.session({{"capacity", 512}});
  session.feed(ids);
  session.sampler({{"temperature", 0.0}, {"max_tokens", 48}});
  Stream(session);
}

void Evaluate(const xh::Runtime& runtime, const std::string& teacher, const std::string& student,
              const std::string& task) {
  const json recipe = {
      {"models", {teacher, student}}, {"names", {"teacher", "student"}}, {"tasks", {task}}, {"limit", 16}};
  const json result = json::parse(runtime.job("evaluate", recipe.dump()).run());
  for (const json& model : result["models"]) {
    for (const json& row : model["tasks"]) {
      std::printf("accuracy %s %s %.6f\n", model["name"].get<std::string>().c_str(),
                  row["task"].get<std::string>().c_str(), row["accuracy"].get<double>());
    }
  }
  // The smallest share of the teacher's accuracy to be given up for the student to win or tie everywhere.
  std::printf("alpha* %.6f\n", result["models"][1]["alpha_star"].get<double>());
}

void Merge(const xh::Runtime& runtime, const std::string& a, const std::string& b, const std::string& output) {
  const json recipe = {
      {"models", {a, b}}, {"method", "slerp"}, {"options", {{"t", 0.5}}}, {"output", output}, {"replace", true}};
  runtime.job("merge", recipe.dump()).run();
  const xh::Checkpoint merged = runtime.open(output);
  std::printf("merged %zu tensors, norm sum %.6f\n", merged.tensor_names().size(), Sum(merged.tensor(kTensor)));
}

// "origin: message" on standard error.
int Fail(const char* origin, const char* message) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s: %s\n", origin, message);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return std::fprintf(stderr, "usage: tour TEACHER STUDENT_A STUDENT_B TASK.jsonl MERGED\n"), 2;
  try {
    std::printf("xhybrid %s\n", xh_release());
    const xh::Runtime runtime;
    ShowTensor(runtime, argv[2]);
    Answer(runtime, argv[2]);
    Evaluate(runtime, argv[1], argv[2], argv[4]);
    Merge(runtime, argv[2], argv[3], argv[5]);
    return 0;
  } catch (const xh::Error& error) {
    return Fail(error.origin().c_str(), error.what());
  } catch (const std::exception& error) {
    return Fail("tour", error.what());
  }
}
