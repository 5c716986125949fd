#include "core/merge/merge_inputs.h"

#include <set>

#include "absl/strings/str_join.h"
#include "core/checkpoint/digest.h"
#include "core/checkpoint/names.h"

namespace xh {
namespace {

using nlohmann::json;

// Not part of what a model computes: experts may end or begin their texts differently and reach differently far.
bool IsFreeToDiffer(const std::string& key) { return key == "context" || key == "eos_ids" || key == "bos_id"; }

std::string Shown(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

// `"mixers.3.kind" is "hybrid" in a.xhy and "window" in b.xhy`, or "" when there is no difference.
std::string FirstDifference(const json& a, const json& b, const std::string& key, const std::string& where_a,
                            const std::string& where_b) {
  if (a == b) return "";
  const std::string prefix = key.empty() ? "" : key + ".";
  if (a.is_object() && b.is_object()) {
    std::set<std::string> names;
    for (const auto& [name, value] : a.items()) names.insert(name);
    for (const auto& [name, value] : b.items()) names.insert(name);
    for (const std::string& name : names) {
      if (key.empty() && IsFreeToDiffer(name)) continue;
      const json absent;
      const std::string found = FirstDifference(a.contains(name) ? a[name] : absent,
                                                b.contains(name) ? b[name] : absent, prefix + name, where_a, where_b);
      if (!found.empty()) return found;
    }
    return "";
  }
  if (a.is_array() && b.is_array() && a.size() == b.size()) {
    for (size_t i = 0; i < a.size(); ++i) {
      const std::string found = FirstDifference(a[i], b[i], absl::StrCat(prefix, i), where_a, where_b);
      if (!found.empty()) return found;
    }
  }
  return absl::StrCat("\"", key, "\" is ", Shown(a), " in ", where_a, " and ", Shown(b), " in ", where_b);
}

Status CompareTensors(const MergeInput& first, const MergeInput& other) {
  auto shape = [](const SourceTensor& tensor) { return absl::StrCat("[", absl::StrJoin(tensor.shape, ", "), "]"); };
  const std::vector<SourceTensor>&a = first.source.tensors, &b = other.source.tensors;
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    if (i >= a.size())
      return Incompatible("tensor ", Quoted(b[i].name), " is in ", other.path, " and not in ", first.path);
    if (i >= b.size() || a[i].name != b[i].name) {
      return Incompatible("tensor ", Quoted(a[i].name), " is in ", first.path, " and not in ", other.path);
    }
    if (a[i].shape != b[i].shape) {
      return Incompatible("tensor ", Quoted(a[i].name), " is ", shape(a[i]), " in ", first.path, " and ", shape(b[i]),
                          " in ", other.path);
    }
  }
  return absl::OkStatus();
}

// The first 8 bytes of the SHA-256 of a file, as hexadecimal digits.
std::string ShortDigest(const std::string& bytes) {
  Sha256 sha;
  sha.Update(bytes.data(), bytes.size());
  const Sha256::Digest digest = sha.Finish();
  std::string text;
  for (size_t i = 0; i < 8; ++i) text += absl::StrCat(absl::Hex(digest[i], absl::kZeroPad2));
  return text;
}

Status CompareTokenizers(const MergeInput& first, const MergeInput& other) {
  const std::map<std::string, std::string>&a = first.source.tokenizer_files, &b = other.source.tokenizer_files;
  for (const auto& [name, bytes] : a) {
    auto found = b.find(name);
    if (found == b.end())
      return Incompatible("tokenizer file ", name, " is in ", first.path, " and not in ", other.path);
    if (found->second != bytes) {
      return Incompatible("tokenizer file ", name, " differs: sha256 ", ShortDigest(bytes), "... in ", first.path, ", ",
                          ShortDigest(found->second), "... in ", other.path);
    }
  }
  for (const auto& [name, bytes] : b) {
    if (a.count(name) == 0)
      return Incompatible("tokenizer file ", name, " is in ", other.path, " and not in ", first.path);
  }
  return absl::OkStatus();
}

Status Compare(const MergeInput& first, const MergeInput& other) {
  const std::string difference =
      FirstDifference(ConfigToJson(first.source.config), ConfigToJson(other.source.config), "", first.path, other.path);
  if (!difference.empty()) return Incompatible("these models cannot be merged: ", difference);
  XH_RETURN_IF_ERROR(CompareTensors(first, other));
  return CompareTokenizers(first, other);
}

}  // namespace

StatusOr<MergeInputs> OpenMergeInputs(const std::vector<std::string>& models, const std::string& base) {
  MergeInputs inputs;
  for (const std::string& path : models) {
    XH_ASSIGN_OR_RETURN(ModelSource source, OpenModelSource(path));
    inputs.models.push_back({path, std::move(source)});
    XH_RETURN_IF_ERROR(Compare(inputs.models.front(), inputs.models.back()));
  }
  if (inputs.models.empty()) return InvalidArgument("merge: \"models\" is empty; allowed: one path or more");
  if (base.empty()) return inputs;
  XH_ASSIGN_OR_RETURN(ModelSource source, OpenModelSource(base));
  inputs.base = std::make_unique<MergeInput>(MergeInput{base, std::move(source)});
  XH_RETURN_IF_ERROR(Compare(inputs.models.front(), *inputs.base));
  return inputs;
}

}  // namespace xh
