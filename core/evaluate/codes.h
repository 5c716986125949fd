// Made-up facts that no model can know, for questions about what a text said: "The code of snow-grey is 447."
#ifndef XHYBRID_CORE_EVALUATE_CODES_H_
#define XHYBRID_CORE_EVALUATE_CODES_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace xh {

// Draws that are the same everywhere: the standard's distributions are not.
class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}
  uint64_t Below(uint64_t bound) { return engine_() % bound; }

 private:
  std::mt19937_64 engine_;
};

std::string DrawWord(Draw& draw);

struct Code {
  std::string name, number;
  std::string Sentence() const;  // "The code of NAME is NUMBER. "
  std::string Question() const;  // "What is the code of NAME?"
  std::string Opening() const;   // "The code of NAME is ", for models that go on with a text
};
// Codes of different names.
std::vector<Code> DrawCodes(int64_t count, Draw& draw);

}  // namespace xh

#endif  // XHYBRID_CORE_EVALUATE_CODES_H_
