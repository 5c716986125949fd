#include "tests/conformance/coverage.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace xh::test {
namespace {

struct Named {
  xh_op op;
  const char* name;
};
constexpr Named kOps[] = {{XH_OP_MATMUL, "MATMUL"},
                          {XH_OP_RMS_NORM, "RMS_NORM"},
                          {XH_OP_ROPE, "ROPE"},
                          {XH_OP_ADD, "ADD"},
                          {XH_OP_SWIGLU, "SWIGLU"},
                          {XH_OP_EMBED, "EMBED"},
                          {XH_OP_CAST, "CAST"},
                          {XH_OP_FILL, "FILL"},
                          {XH_OP_REDUCE, "REDUCE"},
                          {XH_OP_TOP_K, "TOP_K"},
                          {XH_OP_DENSE, "DENSE"},
                          {XH_OP_MLSTM, "MLSTM"},
                          {XH_OP_ATTENTION, "ATTENTION"},
                          {XH_OP_FEATURE_MAP, "FEATURE_MAP"},
                          {XH_OP_HEAD_GATE, "HEAD_GATE"},
                          {XH_OP_MIX, "MIX"},
                          {XH_OP_SELECT_HEADS, "SELECT_HEADS"},
                          {XH_OP_HYBRID_STEP, "HYBRID_STEP"},
                          {XH_OP_ALIGN_LOSS, "ALIGN_LOSS"},
                          {XH_OP_DISTILL_LOSS, "DISTILL_LOSS"},
                          {XH_OP_ADAMW, "ADAMW"},
                          {XH_OP_CLIP, "CLIP"}};

Coverage& TheCoverage() {
  static Coverage coverage;
  return coverage;
}

// NaN is worse than anything.
bool Worse(const Coverage::Worst& a, const Coverage::Worst& b) {
  if (std::isnan(b.error)) return false;
  return std::isnan(a.error) || b.tolerance == 0.0 || a.error * b.tolerance > b.error * a.tolerance;
}

void Keep(std::map<Coverage::Key, Coverage::Worst>* to, const Coverage::Key& key, const Coverage::Worst& worst) {
  const auto [place, added] = to->emplace(key, worst);
  if (!added && Worse(worst, place->second)) place->second = worst;
}

nlohmann::json WorstToJson(const std::map<Coverage::Key, Coverage::Worst>& worst) {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& [key, w] : worst) {
    // JSON has no NaN and no infinity; -1 stands for both.
    list.push_back({key.first, key.second, std::isfinite(w.error) ? w.error : -1.0, w.tolerance});
  }
  return list;
}

std::map<Coverage::Key, Coverage::Worst> WorstFromJson(const nlohmann::json& list) {
  std::map<Coverage::Key, Coverage::Worst> worst;
  for (const nlohmann::json& w : list) {
    const double error = w[2].get<double>();
    worst[{w[0], w[1]}] = {error < 0.0 ? NAN : error, w[3].get<double>()};
  }
  return worst;
}

}  // namespace

const char* OpName(xh_op op) {
  const auto found =
      std::find_if(std::begin(kOps), std::end(kOps), [op](const Named& named) { return named.op == op; });
  return found == std::end(kOps) ? "unknown op" : found->name;
}

bool MayBeLeftOut(const std::string& op) { return op == OpName(XH_OP_DENSE) || op == OpName(XH_OP_HYBRID_STEP); }

const std::vector<xh_op>& AllOps() {
  static const std::vector<xh_op> ops = [] {
    std::vector<xh_op> all;
    for (const Named& named : kOps) all.push_back(named.op);
    return all;
  }();
  return ops;
}

std::string DtypeName(const std::vector<xh_dtype>& dtypes) {
  const auto has = [&](xh_dtype dtype) { return std::find(dtypes.begin(), dtypes.end(), dtype) != dtypes.end(); };
  if (has(XH_BF16)) return "bf16";
  if (has(XH_F32)) return "f32";
  return "integer";
}

void Coverage::Add(const Coverage& other) {
  for (size_t pass = 0; pass < 3; ++pass) {
    for (const auto& [key, call] : other.calls[pass]) {
      Call& mine = calls[pass][key];
      mine.made += call.made;
      mine.supported += call.supported;
      if (mine.reason.empty()) mine.reason = call.reason;
    }
  }
  for (const auto& [key, worst] : other.values) Keep(&values, key, worst);
  for (const auto& [key, worst] : other.gradients) Keep(&gradients, key, worst);
}

std::string Coverage::ToLine() const {
  nlohmann::json line = {{"values", WorstToJson(values)}, {"gradients", WorstToJson(gradients)}};
  for (size_t pass = 0; pass < 3; ++pass) {
    for (const auto& [key, call] : calls[pass]) {
      line["calls"].push_back({pass, key.first, key.second, call.made, call.supported, call.reason});
    }
  }
  return line.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

Coverage Coverage::FromLine(const std::string& line) {
  const nlohmann::json json = nlohmann::json::parse(line);
  Coverage coverage;
  coverage.values = WorstFromJson(json["values"]);
  coverage.gradients = WorstFromJson(json["gradients"]);
  for (const nlohmann::json& c : json.value("calls", nlohmann::json::array())) {
    coverage.calls[c[0].get<size_t>()][{c[1], c[2]}] = {c[3].get<int64_t>(), c[4].get<int64_t>(),
                                                        c[5].get<std::string>()};
  }
  return coverage;
}

void CountCall(xh_op op, const std::string& dtype, xh_pass pass, bool supported, const std::string& reason) {
  Coverage::Call& call = TheCoverage().calls[pass][{OpName(op), dtype}];
  ++call.made;
  call.supported += supported ? 1 : 0;
  if (call.reason.empty()) call.reason = reason;
}

void CountError(xh_op op, const std::string& dtype, bool gradient, double error, double tolerance) {
  Coverage& all = TheCoverage();
  Keep(gradient ? &all.gradients : &all.values, {OpName(op), dtype}, {error, tolerance});
}

Coverage TakeCoverage() { return std::exchange(TheCoverage(), {}); }

}  // namespace xh::test
