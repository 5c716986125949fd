// Compiled as C++17 and C++20: the C headers and the C++ one stand together.
#include "xhybrid.h"
#include "xhybrid.hpp"
#include "xhybrid_plugin.h"

static_assert(XH_ABI_VERSION == 0x00010000u, "ABI 1.0");

int UseHeaders(const xh::Model& model);
int UseHeaders(const xh::Model& model) { return static_cast<int>(model.vocab_size()); }
