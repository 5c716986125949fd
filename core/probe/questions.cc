#include "core/probe/questions.h"

#include <algorithm>
#include <random>

namespace xh {
namespace {

constexpr int64_t kAnswerTokens = 4;  // of copies
constexpr const char* kThings[] = {"snow", "lamp", "rock", "tree", "leaf", "cat", "door", "ship",
                                   "lake", "rain", "road", "fish", "star", "sun", "red",  "blue"};
constexpr const char* kKinds[] = {"short", "silver", "new",  "grey", "pink",  "old",  "slow", "soft",
                                  "black", "brown",  "hard", "cold", "white", "warm", "tall", "fast"};
constexpr size_t kWords = std::size(kThings);

// Draws that are the same everywhere: the standard's distributions are not.
class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}
  uint64_t Below(uint64_t bound) { return engine_() % bound; }

 private:
  std::mt19937_64 engine_;
};

std::string Pair(Draw& draw) { return absl::StrCat(kThings[draw.Below(kWords)], "-", kKinds[draw.Below(kWords)]); }

// The tokens of prompt and answer, the answer beginning where those of the prompt alone end.
StatusOr<Question> Joined(const Model& model, const std::string& prompt, const std::string& answer) {
  Question question;
  XH_ASSIGN_OR_RETURN(question.ids, model.tokenizer->Encode(prompt + answer, true));
  XH_ASSIGN_OR_RETURN(const std::vector<int32_t> before, model.tokenizer->Encode(prompt, true));
  const auto [end, _] = std::mismatch(before.begin(), before.end(), question.ids.begin(), question.ids.end());
  question.answer = end - before.begin();
  return question;
}

// Models without a chat template are asked to go on with the text.
StatusOr<Question> Asked(const Model& model, const std::string& text, const std::string& ask, const std::string& go_on,
                         const std::string& answer) {
  StatusOr<std::string> chat = model.tokenizer->RenderChat({{"user", text + ask}}, true);
  if (chat.ok()) return Joined(model, *chat, answer);
  if (CodeOf(chat.status()) != XH_UNSUPPORTED) return chat.status();
  return Joined(model, text + go_on, answer);
}

StatusOr<Question> Recall(const Model& model, int64_t pairs, Draw& draw) {
  std::vector<std::string> names;
  std::string text, asked, code;
  const int64_t wanted = static_cast<int64_t>(draw.Below(static_cast<uint64_t>(pairs)));
  for (int64_t i = 0; i < pairs; ++i) {
    std::string name = Pair(draw);
    // There are as many names as pairs of words: beyond, names get a number.
    while (std::find(names.begin(), names.end(), name) != names.end()) name = Pair(draw) + std::to_string(i);
    const std::string number = std::to_string(100 + draw.Below(900));
    absl::StrAppend(&text, "The code of ", name, " is ", number, ". ");
    if (i == wanted) asked = name, code = number;
    names.push_back(std::move(name));
  }
  return Asked(model, text, absl::StrCat("What is the code of ", asked, "?"),
               absl::StrCat("The code of ", asked, " is "), code);
}

StatusOr<Question> Copy(const Model& model, int64_t words, Draw& draw) {
  std::string text;
  for (int64_t i = 0; i < words; ++i) absl::StrAppend(&text, " ", kThings[draw.Below(kWords)]);
  Question question;
  XH_ASSIGN_OR_RETURN(question.ids, model.tokenizer->Encode(absl::StrCat("Copy:", text, ".\nCopy:", text), true));
  question.answer = std::max<int64_t>(1, static_cast<int64_t>(question.ids.size()) - kAnswerTokens);
  return question;
}

Question Induction(const Model& model, int64_t tokens, Draw& draw) {
  const ModelConfig& config = model.config;
  Question question;
  if (config.bos_id >= 0) question.ids.push_back(config.bos_id);
  std::vector<int32_t> once;
  for (int64_t i = 0; i < tokens; ++i) {
    once.push_back(static_cast<int32_t>(draw.Below(static_cast<uint64_t>(config.vocab_size))));
  }
  for (int copy = 0; copy < 2; ++copy) question.ids.insert(question.ids.end(), once.begin(), once.end());
  question.answer = std::max<int64_t>(1, static_cast<int64_t>(question.ids.size()) - kAnswerTokens);
  return question;
}

// A question of `size` parts (pairs, words or tokens).
StatusOr<Question> Make(const Model& model, const std::string& kind, int64_t size, Draw& draw) {
  if (kind == "recall") return Recall(model, size, draw);
  if (kind == "copy") return Copy(model, size, draw);
  return Induction(model, size, draw);
}

// The most parts of which a question has at most `length` tokens; 0 when there is none. Tried on one text.
StatusOr<int64_t> PartsFor(const Model& model, const std::string& kind, int64_t length) {
  int64_t fits = 0, beyond = length + 1;
  while (beyond - fits > 1) {
    const int64_t size = (fits + beyond) / 2;
    Draw draw(1);
    XH_ASSIGN_OR_RETURN(const Question question, Make(model, kind, size, draw));
    (static_cast<int64_t>(question.ids.size()) <= length ? fits : beyond) = size;
  }
  return fits;
}

}  // namespace

const std::vector<std::string>& QuestionKinds() {
  static const std::vector<std::string> kinds = {"recall", "copy", "induction"};
  return kinds;
}

StatusOr<std::vector<Question>> MakeQuestions(const Model& model, const std::string& kind,
                                              const QuestionOptions& options) {
  std::vector<Question> questions;
  Draw draw(options.seed * 3 + static_cast<uint64_t>(kind[0]));
  for (int64_t length : options.lengths) {
    // Different texts of as many parts differ by a few tokens.
    const int64_t most = std::min(length, model.config.context - 8);
    XH_ASSIGN_OR_RETURN(const int64_t parts, PartsFor(model, kind, most));
    if (parts == 0) {
      return InvalidArgument("probe: no ", kind, " question fits in ", length, " tokens; allowed: longer \"lengths\"");
    }
    for (int64_t i = 0; i < options.count; ++i) {
      XH_ASSIGN_OR_RETURN(Question question, Make(model, kind, parts, draw));
      if (static_cast<int64_t>(question.ids.size()) > model.config.context) continue;
      questions.push_back(std::move(question));
    }
  }
  return questions;
}

StatusOr<std::vector<Question>> QuestionsOf(const Model& model, const Task& task, int64_t* left_out) {
  std::vector<Question> questions;
  for (const Sample& sample : task.samples) {
    XH_ASSIGN_OR_RETURN(const std::string prompt, model.tokenizer->RenderChat(sample.prompt, true));
    XH_ASSIGN_OR_RETURN(Question question, Joined(model, prompt, sample.answer));
    const int64_t tokens = static_cast<int64_t>(question.ids.size());
    const bool fits = tokens <= model.config.context && question.answer < tokens && question.answer > 0;
    if (fits) {
      questions.push_back(std::move(question));
    } else {
      ++*left_out;
    }
  }
  return questions;
}

}  // namespace xh
