#include "core/probe/questions.h"

#include <algorithm>

#include "core/evaluate/codes.h"

namespace xh {
namespace {

constexpr int64_t kAnswerTokens = 4;  // of copies

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
StatusOr<Question> Asked(const Model& model, const std::string& text, const Code& code) {
  StatusOr<std::string> chat = model.tokenizer->RenderChat({{"user", text + code.Question()}}, true);
  if (chat.ok()) return Joined(model, *chat, code.number);
  if (CodeOf(chat.status()) != XH_UNSUPPORTED) return chat.status();
  return Joined(model, text + code.Opening(), code.number);
}

StatusOr<Question> Recall(const Model& model, int64_t pairs, Draw& draw) {
  const uint64_t asked = draw.Below(static_cast<uint64_t>(pairs));
  std::string text;
  const std::vector<Code> codes = DrawCodes(pairs, draw);
  for (const Code& code : codes) text += code.Sentence();
  return Asked(model, text, codes[asked]);
}

StatusOr<Question> Copy(const Model& model, int64_t words, Draw& draw) {
  std::string text;
  for (int64_t i = 0; i < words; ++i) absl::StrAppend(&text, " ", DrawWord(draw));
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
