// What bindings ask of their arguments before a kernel runs on them.
#pragma once

#include <stdexcept>

#include "dispatch.h"

namespace bitrelax {

inline void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

inline Level level_of(int level) {
    require(level >= 0 && level <= static_cast<int>(best_level()), "the CPU level must be in 0..best_level()");
    return static_cast<Level>(level);
}

}  // namespace bitrelax
