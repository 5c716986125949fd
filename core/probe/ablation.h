// What a model answers when some of its key/value heads see only a window: forward passes, no training (SPEC.md 7).
#ifndef XHYBRID_CORE_PROBE_ABLATION_H_
#define XHYBRID_CORE_PROBE_ABLATION_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/probe/questions.h"

namespace xh {

// Which heads keep what the teacher has, [layer][key/value head]; the others are cut to the window.
using Mask = std::vector<std::vector<bool>>;
Mask UniformMask(const ModelConfig& config, bool kept);
std::string MaskKey(const Mask& mask);  // "10.01.11": a layer after the other

// Sums over the questions of a kind.
struct Score {
  double log_probability = 0;  // of the whole right answer, summed over questions
  int64_t correct = 0;         // questions whose every answer token is the likeliest
  int64_t questions = 0;
};
using Scores = std::vector<Score>;  // by kind

// Measures masks on all questions. For each batch of questions the whole model runs twice, with everything kept and
// with everything cut; a mask then starts from the layer where it first differs from either. One thread at a time.
class Ablation {
 public:
  struct Options {
    int32_t window = 0;
    int32_t sinks = 0;
    int64_t batch_tokens = 4096;  // of a batch, about
  };
  Ablation(std::shared_ptr<const Model> model, std::vector<Question> questions, const Options& options);
  ~Ablation();

  // Leaves out the questions of kinds that are not listed as true from here on.
  void KeepKinds(const std::vector<bool>& kinds);
  // The batches of a pass over all questions.
  int64_t batches() const { return static_cast<int64_t>(batches_.size()); }
  // Runs one batch through all masks and adds to (*scores)[mask][kind]. Programs are kept for equal masks and shapes.
  Status Run(int64_t batch, const std::vector<Mask>& masks, std::vector<Scores>* scores);

 private:
  struct Program;
  // Questions of nearly one length, padded at the end: what comes later changes nothing before it.
  struct Batch {
    std::vector<size_t> questions;
    int64_t tokens = 0;   // T
    int64_t answers = 0;  // answer tokens of all questions
  };

  void MakeBatches();
  ModelConfig ConfigOf(const Mask& mask) const;
  StatusOr<Program*> ProgramFor(const Batch& batch, const Mask& mask, int64_t first, bool keep_streams);
  Status RunProgram(const Batch& batch, Program* program, const std::vector<float>* stream);
  Status AddScores(const Batch& batch, Program* program, Scores* scores);

  std::shared_ptr<const Model> model_;
  std::vector<Question> questions_;
  Options options_;
  std::vector<Batch> batches_;
  std::map<std::string, std::unique_ptr<Program>> programs_;
  int64_t program_bytes_ = 0;
};

}  // namespace xh

#endif  // XHYBRID_CORE_PROBE_ABLATION_H_
