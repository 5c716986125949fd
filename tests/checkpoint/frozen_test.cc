// A checkpoint written by format 1.0 must load for ever. It was made once by WriteSample(path, 1.5f) and never changes.
#include "tests/checkpoint/sample.h"

namespace xh {
namespace {

TEST(FrozenTest, ACheckpointOfFormat10Loads) {
  const std::string path = std::string(XH_FROZEN) + "/sample-1.0.xhy";
  EXPECT_OK(test::CheckSample(path, 1.5f));
  EXPECT_OK(test::CheckSample(path, 1.5f, LoadMode::kCopy));
}

}  // namespace
}  // namespace xh
