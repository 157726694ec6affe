// Counts in vectors of four 32-bit lanes, by the compiler's vector types: what follows a sum, for NEON and for any CPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "bitsum.h"

namespace bitrelax::BITRELAX_LEVEL {
namespace {

using Lanes = std::uint32_t __attribute__((vector_size(16)));
using SignedLanes = std::int32_t __attribute__((vector_size(16)));
using FloatLanes = float __attribute__((vector_size(16)));

struct Counts {
    Lanes quarter[4];  // of 4 channels each
};

template <class Vector, class Number>
inline Vector load(const Number* from) {
    static_assert(sizeof(Vector) == 4 * sizeof(Number));
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

inline Lanes broadcast(std::uint32_t word) { return Lanes{word, word, word, word}; }

inline std::uint32_t at_most(const Counts& counts, const std::int32_t* most) {
    Lanes bits = broadcast(0);
    for (int q = 0; q < 4; ++q) {
        const auto holds = reinterpret_cast<Lanes>(reinterpret_cast<SignedLanes>(counts.quarter[q]) <=
                                                   load<SignedLanes>(most + 4 * q));
        bits |= holds & (Lanes{1, 2, 4, 8} << (4 * q));
    }
    return bits[0] | bits[1] | bits[2] | bits[3];
}

inline SignedLanes sums(const Counts& counts, const std::int32_t* base, int quarter) {
    return load<SignedLanes>(base + 4 * quarter) - reinterpret_cast<SignedLanes>(counts.quarter[quarter] << 1);
}

inline void store_sums(const Counts& counts, const std::int32_t* base, std::int32_t* to, int channels) {
    SignedLanes all[4];
    for (int q = 0; q < 4; ++q) all[q] = sums(counts, base, q);
    std::memcpy(to, all, sizeof *to * static_cast<std::size_t>(channels));
}

inline void store_affine(const Counts& counts, const std::int32_t* base, const float* scale, const float* bias,
                         float* to, int channels) {
    FloatLanes all[4];
    for (int q = 0; q < 4; ++q)
        all[q] = __builtin_convertvector(sums(counts, base, q), FloatLanes) * load<FloatLanes>(scale + 4 * q) +
                 load<FloatLanes>(bias + 4 * q);
    std::memcpy(to, all, sizeof *to * static_cast<std::size_t>(channels));
}

}  // namespace
}  // namespace bitrelax::BITRELAX_LEVEL
