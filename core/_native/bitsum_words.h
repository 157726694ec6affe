// The words of neighbouring rows in order, whatever segments they lie in, a chunk at a time: kernels that keep partial
// counts in narrow fields empty them once a chunk.
#pragma once

#include <cstdint>

#include "bitsum.h"

namespace bitrelax::BITRELAX_LEVEL {
namespace {

class Words {
   public:
    Words(const BitSums& of, const std::uint32_t* input) : of_(of), input_(input) {}

    // Calls take(row, at, source, n) for each run of n words, the chunk's words at .. at + n - 1 of that row; how many
    // words the chunk has: `most`, fewer at the end, 0 after it.
    template <int rows, class Take>
    int next(int most, const Take& take) {
        int at = 0;
        while (at < most && segment_ < of_.segments) {
            const std::int64_t left = of_.segment_words - word_;
            const int n = left < most - at ? static_cast<int>(left) : most - at;
            const std::uint32_t* const source = input_ + of_.offsets[segment_] + word_;
            for (int r = 0; r < rows; ++r) take(r, at, source + r * of_.row_pitch, n);
            at += n;
            word_ += n;
            if (word_ == of_.segment_words) ++segment_, word_ = 0;
        }
        return at;
    }

   private:
    const BitSums& of_;
    const std::uint32_t* input_;
    std::int64_t segment_ = 0, word_ = 0;
};

}  // namespace
}  // namespace bitrelax::BITRELAX_LEVEL
