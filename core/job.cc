#include "core/job.h"

#include "absl/strings/str_join.h"
#include "core/bench/bench_job.h"
#include "core/evaluate/evaluate_job.h"
#include "core/merge/merge_job.h"
#include "core/model/export.h"
#include "core/model/import.h"
#include "core/probe/probe_job.h"
#include "core/train/distill_job.h"
#include "core/train/plan_job.h"
#include "core/train/tokenize_job.h"

namespace xh {

const std::vector<JobKind>& JobKinds() {
  static const std::vector<JobKind> kinds = {
      {"import", "read a Hugging Face directory into a checkpoint", kImportSchema, OpenImportJob},
      {"export", "write a model as a Hugging Face directory", kExportSchema, OpenExportJob},
      {"distill", "turn a teacher into a hybrid student, stage by stage", kDistillSchema, OpenDistillJob},
      {"plan", "say what a distill recipe will hold in the device's memory", kDistillSchema, OpenPlanJob},
      {"tokenize", "turn data files into rows of token ids", kTokenizeSchema, OpenTokenizeJob},
      {"merge", "merge students that began from the same weights", kMergeSchema, OpenMergeJob},
      {"probe", "find the heads that carry retrieval, and plan a student that keeps them", kProbeSchema, OpenProbeJob},
      {"evaluate", "measure models on tasks, and students against their teacher", kEvaluateSchema, OpenEvaluateJob},
      {"bench", "time training and decoding against this machine's ceilings", kBenchSchema, OpenBenchJob},
  };
  return kinds;
}

StatusOr<const JobKind*> FindJobKind(const std::string& name) {
  std::vector<std::string> names;
  for (const JobKind& kind : JobKinds()) {
    if (name == kind.name) return &kind;
    names.emplace_back(kind.name);
  }
  return InvalidArgument("job kind is \"", name, "\"; allowed: ", absl::StrJoin(names, ", "));
}

}  // namespace xh
