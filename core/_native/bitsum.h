// Sums of products of signs over packed words: s = base - 2 popcount(w xor x), with what follows the sum fused to it.
//
// Bits are packed least significant first; 1 is +1, 0 is -1. Pad bits are 0 in weights and inputs alike, so that they
// count nothing. Every pointer is to memory that the caller owns and has checked; outputs overlap nothing.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace bitrelax {

constexpr std::int64_t kBlock = 16;  // output channels side by side in the packed weights

// `rows` inputs times `outputs` weight vectors. Row r reads, for each segment s, `segment_words` words from
// input + r * row_pitch + offsets[s]: one segment for a linear layer; for a convolution each kernel row (or each tap, where
// dilated) of a physically padded image, rows then being neighbouring positions of one row of outputs.
struct BitSums {
    const std::uint32_t* input;
    std::int64_t rows, row_pitch;
    const std::int64_t* offsets;
    std::int64_t segments, segment_words;  // both >= 1
    const std::uint32_t* weights;  // [ceil(outputs / 16)][segments * segment_words][16]; channels that are not there: 0
    std::int64_t outputs;
    const std::uint16_t* row_class;  // (rows,): which table of the epilogue is row r's; null: table 0 for all
};

// bit = (pc <= most[class][c]) != flip[c]. most: [classes][16 * blocks], -1 for channels that are not there; flip: a word
// of 16 bits a block, 0 for those. Row r writes words(outputs) whole words from bits + r * pitch.
struct ToBits {
    const std::int32_t* most;
    const std::uint16_t* flip;
    std::uint32_t* bits;
    std::int64_t pitch;
};

// s = base[class][c] - 2 pc. base: [classes][16 * blocks]. Row r writes `outputs` numbers from sums + r * pitch.
struct ToSums {
    const std::int32_t* base;
    std::int32_t* sums;
    std::int64_t pitch;
};

// float(s) * scale[c] + bias[c]: two roundings. scale, bias: [16 * blocks].
struct ToAffine {
    const std::int32_t* base;
    const float *scale, *bias;
    float* out;
    std::int64_t pitch;
};

// What this core does now, measured in a few milliseconds: cycles a second, and operations a cycle (a xor and a count of
// one bit are two) of the level's counting instructions on registers alone, the limit of the kernels above; 0 where the
// level counts without such an instruction.
struct PackedLimits {
    double clock, operations;
};

#define BITRELAX_BITSUM_KERNELS                               \
    void bit_sums_to_bits(const BitSums&, const ToBits&);     \
    void bit_sums(const BitSums&, const ToSums&);             \
    void bit_sums_affine(const BitSums&, const ToAffine&);    \
    PackedLimits packed_limits();

namespace portable {
BITRELAX_BITSUM_KERNELS
}
#ifdef BITRELAX_X86
namespace avx2 {
BITRELAX_BITSUM_KERNELS
}
namespace avx512 {
BITRELAX_BITSUM_KERNELS
}
#endif

// The best level of this CPU for the kernels of packed networks: their avx512 also needs VPOPCNTDQ and VNNI.
inline Level best_packed_level() {
#ifdef BITRELAX_X86
    const Level best = best_level();
    if (best == Level::avx512 && !(__builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni")))
        return Level::avx2;
    return best;
#else
    return Level::portable;
#endif
}

}  // namespace bitrelax
