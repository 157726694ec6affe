// Counts of differing bits with AVX-512 VPOPCNTDQ: a register is one word of 16 channels, a word of an input is
// broadcast, and counting is three instructions (xor, popcount, add). The block of 4 rows x 4 blocks is 16 accumulators.
#pragma once

#include <immintrin.h>

#include "bitsum.h"

namespace bitrelax::BITRELAX_LEVEL {
namespace {

using Counts = __m512i;  // of 16 channels

// Counts one word of each row: added to what there is, or begun with.
template <bool begin, int rows, int blocks>
inline void count_word(const std::uint32_t* x, std::int64_t pitch, const std::uint32_t* weights, std::int64_t panel,
                       Counts (&counts)[rows][blocks]) {
    __m512i w[blocks];
    for (int b = 0; b < blocks; ++b) w[b] = _mm512_loadu_si512(weights + b * panel);
    for (int r = 0; r < rows; ++r) {
        const __m512i word = _mm512_set1_epi32(static_cast<int>(x[r * pitch]));
        for (int b = 0; b < blocks; ++b) {
            const __m512i count = _mm512_popcnt_epi32(_mm512_xor_si512(word, w[b]));
            counts[r][b] = begin ? count : _mm512_add_epi32(counts[r][b], count);
        }
    }
}

template <int rows, int blocks>
inline void count(const BitSums& of, const std::uint32_t* input, const std::uint32_t* weights,
                  Counts (&counts)[rows][blocks]) {
    const std::int64_t panel = of.segments * of.segment_words * kBlock;
    count_word<true>(input + of.offsets[0], of.row_pitch, weights, panel, counts);
    std::int64_t k = 1;
    for (std::int64_t s = 0; s < of.segments; ++s, k = 0) {
        const std::uint32_t* const x = input + of.offsets[s];
#pragma GCC unroll 2
        for (; k < of.segment_words; ++k)
            count_word<false>(x + k, of.row_pitch, weights += kBlock, panel, counts);
    }
}

inline std::uint32_t at_most(const Counts& counts, const std::int32_t* most) {
    return _mm512_cmple_epi32_mask(counts, _mm512_loadu_si512(most));
}

inline __m512i sums(const Counts& counts, const std::int32_t* base) {
    return _mm512_sub_epi32(_mm512_loadu_si512(base), _mm512_add_epi32(counts, counts));
}

inline __mmask16 first(int channels) { return static_cast<__mmask16>((1u << channels) - 1u); }

inline void store_sums(const Counts& counts, const std::int32_t* base, std::int32_t* to, int channels) {
    _mm512_mask_storeu_epi32(to, first(channels), sums(counts, base));
}

inline void store_affine(const Counts& counts, const std::int32_t* base, const float* scale, const float* bias,
                         float* to, int channels) {
    const __mmask16 there = first(channels);
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(there, sums(counts, base)), _mm512_loadu_ps(scale));
    _mm512_mask_storeu_ps(to, there, _mm512_add_ps(scaled, _mm512_loadu_ps(bias)));
}

}  // namespace
}  // namespace bitrelax::BITRELAX_LEVEL
