#include "core/evaluate/codes.h"

#include <set>

#include "absl/strings/str_cat.h"

namespace xh {
namespace {

constexpr const char* kThings[] = {"snow", "lamp", "rock", "tree", "leaf", "cat", "door", "ship",
                                   "lake", "rain", "road", "fish", "star", "sun", "red",  "blue"};
constexpr const char* kKinds[] = {"short", "silver", "new",  "grey", "pink",  "old",  "slow", "soft",
                                  "black", "brown",  "hard", "cold", "white", "warm", "tall", "fast"};

// The order of the two draws is fixed: a seed has to give the same text everywhere.
std::string DrawName(Draw& draw) {
  const std::string thing = DrawWord(draw);
  return absl::StrCat(thing, "-", kKinds[draw.Below(std::size(kKinds))]);
}

}  // namespace

std::string DrawWord(Draw& draw) { return kThings[draw.Below(std::size(kThings))]; }

std::string Code::Sentence() const { return absl::StrCat(Opening(), number, ". "); }
std::string Code::Question() const { return absl::StrCat("What is the code of ", name, "?"); }
std::string Code::Opening() const { return absl::StrCat("The code of ", name, " is "); }

std::vector<Code> DrawCodes(int64_t count, Draw& draw) {
  std::vector<Code> codes;
  std::set<std::string> taken;
  for (int64_t i = 0; i < count; ++i) {
    std::string name = DrawName(draw);
    // There are as many names as pairs of words: beyond, names get a number.
    while (taken.count(name) > 0) name = DrawName(draw) + std::to_string(i);
    taken.insert(name);
    codes.push_back({std::move(name), std::to_string(100 + draw.Below(900))});
  }
  return codes;
}

}  // namespace xh
