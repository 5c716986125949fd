#include "core/evaluate/retrieval_task.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>

#include "absl/strings/match.h"
#include "core/evaluate/codes.h"
#include "core/json_fields.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr int64_t kAnswerTokens = 16;

struct Description {
  std::string where;
  bool needle = false;
  std::string text;  // path of the needle's haystack
  std::vector<int64_t> lengths;
  std::vector<double> depths;
  int64_t samples = 0;
  uint64_t seed = 0;
};

template <typename T, typename Fits>
StatusOr<std::vector<T>> Numbers(JsonFields& fields, const std::string& where, const char* key, std::vector<T> missing,
                                 const std::string& allowed, Fits fits) {
  const json* list = fields.Get(key);
  if (list == nullptr && !missing.empty()) return missing;
  std::vector<T> out;
  const bool is_list = list != nullptr && list->is_array() && !list->empty();
  for (const json& item : is_list ? *list : json::array()) {
    if (!fits(item)) return InvalidArgument(where, ": \"", key, "\" holds ", ShownJson(item), "; allowed: ", allowed);
    out.push_back(item.get<T>());
  }
  if (out.empty()) return InvalidArgument(where, ": \"", key, "\" must be a list of ", allowed);
  return out;
}

StatusOr<Description> ReadDescription(const std::string& path, int64_t longest) {
  XH_ASSIGN_OR_RETURN(const json file, ReadJsonFile(path));
  JsonFields fields(&file, path);
  Description asked;
  asked.where = path;
  XH_ASSIGN_OR_RETURN(const std::string kind, fields.Choice("task", {"recall", "needle"}));
  asked.needle = kind == "needle";
  XH_ASSIGN_OR_RETURN(
      asked.lengths,
      Numbers<int64_t>(fields, path, "lengths", {},
                       absl::StrCat("integers from 16 to ", longest, " (the context, less room for the answer)"),
                       [&](const json& n) { return n.is_number_integer() && n >= 16 && n <= longest; }));
  XH_ASSIGN_OR_RETURN(asked.depths,
                      Numbers<double>(fields, path, "depths", {0.0, 0.25, 0.5, 0.75, 1.0}, "numbers from 0 to 1",
                                      [](const json& n) { return n.is_number() && n >= 0 && n <= 1; }));
  XH_ASSIGN_OR_RETURN(asked.samples, fields.Int("samples", 1, 100000, 16));
  XH_ASSIGN_OR_RETURN(const int64_t seed, fields.Int("seed", 0, int64_t{1} << 53, 0));
  asked.seed = static_cast<uint64_t>(seed);
  if (asked.needle) {
    XH_ASSIGN_OR_RETURN(asked.text, fields.Text("text"));
    asked.text = (std::filesystem::path(path).parent_path() / asked.text).string();
  }
  XH_RETURN_IF_ERROR(fields.NoOthers());
  return asked;
}

// The sentences of a file of texts, each with a space behind it.
StatusOr<std::vector<std::string>> Sentences(const Description& asked) {
  XH_ASSIGN_OR_RETURN(const Task file, ReadTask(asked.text, 0));
  if (file.kind != TaskKind::kPerplexity) {
    return InvalidArgument(asked.where, ": \"text\" names ", asked.text,
                           ", which has questions; allowed: rows with \"text\"");
  }
  std::vector<std::string> sentences;
  for (const Sample& sample : file.samples) {
    std::string sentence;
    for (char c : sample.text) {
      sentence += c == '\n' ? ' ' : c;
      if (c != '.' && c != '!' && c != '?') continue;
      sentences.push_back(sentence + " ");
      sentence.clear();
    }
  }
  if (sentences.empty()) return InvalidArgument(asked.where, ": ", asked.text, " has no sentence");
  return sentences;
}

// A question about one of `count` sentences, or about a code among them, at `depth`.
using Write = std::function<Sample(int64_t count, double depth)>;

Sample Asked(const std::string& text, const Code& code) {
  Sample sample;
  sample.prompt = {{"user", text + code.Question()}};
  sample.answer = code.number;
  return sample;
}

Sample WriteRecall(const std::vector<Code>& codes, int64_t count, double depth) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text += codes[i].Sentence();
  return Asked(text, codes[std::llround(depth * static_cast<double>(count - 1))]);
}

// Texts begin somewhere in the file and go round at its end.
Sample WriteNeedle(const std::vector<std::string>& sentences, size_t first, const Code& code, int64_t count,
                   double depth) {
  const int64_t before = std::llround(depth * static_cast<double>(count));
  std::string text;
  for (int64_t i = 0; i <= count; ++i) {
    if (i == before) text += code.Sentence();
    if (i < count) text += sentences[(first + static_cast<size_t>(i)) % sentences.size()];
  }
  return Asked(text, code);
}

// The longest of what `write` makes that has at most `length` tokens.
StatusOr<Sample> Longest(const Description& asked, const Model& model, int64_t length, double depth,
                         const Write& write) {
  int64_t fits = 0, beyond = length;  // a sentence has more than one token
  while (beyond - fits > 1) {
    const int64_t count = (fits + beyond) / 2;
    XH_ASSIGN_OR_RETURN(const auto ids, PromptOf(model, TaskKind::kExactMatch, write(count, depth)));
    (static_cast<int64_t>(ids.size()) <= length ? fits : beyond) = count;
  }
  if (fits == 0) {
    return InvalidArgument(asked.where, ": no question fits in ", length, " tokens; allowed: longer \"lengths\"");
  }
  Sample sample = write(fits, depth);
  sample.length = length;
  sample.depth = depth;
  return sample;
}

}  // namespace

bool IsRetrievalTask(const std::string& path) { return absl::EndsWith(path, ".json"); }

StatusOr<Task> MakeRetrievalTask(const std::string& path, int64_t limit, const Model& model) {
  XH_ASSIGN_OR_RETURN(const Description asked, ReadDescription(path, model.config.context - kAnswerTokens));
  std::vector<std::string> sentences;
  if (asked.needle) {
    XH_ASSIGN_OR_RETURN(sentences, Sentences(asked));
  }
  Task task;
  task.name = std::filesystem::path(path).stem().string();
  task.kind = TaskKind::kExactMatch;
  task.lengths = asked.lengths;
  task.depths = asked.depths;
  const int64_t all = asked.samples * static_cast<int64_t>(asked.lengths.size() * asked.depths.size());
  const int64_t most = limit > 0 ? std::min(limit, all) : all;
  Draw draw(asked.seed);
  while (static_cast<int64_t>(task.samples.size()) < most) {
    const size_t number = task.samples.size();
    const int64_t length = asked.lengths[number % asked.lengths.size()];
    const double depth = asked.depths[number / asked.lengths.size() % asked.depths.size()];
    const std::vector<Code> codes = DrawCodes(asked.needle ? 1 : length, draw);
    const size_t first = asked.needle ? draw.Below(sentences.size()) : 0;
    const Write write = [&](int64_t count, double at) {
      return asked.needle ? WriteNeedle(sentences, first, codes[0], count, at) : WriteRecall(codes, count, at);
    };
    XH_ASSIGN_OR_RETURN(Sample sample, Longest(asked, model, length, depth, write));
    task.samples.push_back(std::move(sample));
  }
  return task;
}

}  // namespace xh
