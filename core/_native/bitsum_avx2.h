// Counts of differing bits with AVX2: the count of a nibble is looked up by a byte shuffle, and 31 words are counted in
// bytes (31 x 8 = 248) before they are widened. Inputs are split into nibbles once a chunk, weights once a word for all
// rows, so that what is left is six instructions: two xors, two shuffles, two adds.
#pragma once

#include <immintrin.h>

#include "bitsum.h"
#include "bitsum_words.h"

namespace bitrelax::BITRELAX_LEVEL {
namespace {

struct Counts {
    __m256i half[2];  // of 8 channels each
};

constexpr int kChunk = 31;  // words whose counts fit a byte

inline __m256i low_nibbles(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline __m256i high_nibbles(__m256i x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }

inline __m256i counts_of_nibbles(__m256i x) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    return _mm256_shuffle_epi8(table, x);
}

inline __m256i sums_of_four_bytes(__m256i x) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(x, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
}

inline __m256i broadcast(const std::uint32_t& word) { return _mm256_set1_epi32(static_cast<int>(word)); }

template <int rows>
struct Nibbles {
    std::uint32_t low[rows][kChunk + 1], high[rows][kChunk + 1];
};

// One chunk of `words` words of one block.
template <int rows, int blocks>
inline void count_chunk(const Nibbles<rows>& input, const std::uint32_t* weights, int words, int block,
                        Counts (&counts)[rows][blocks]) {
    __m256i bytes[rows][2];
    for (auto& row : bytes) row[0] = row[1] = _mm256_setzero_si256();
    for (int k = 0; k < words; ++k, weights += kBlock) {
        for (int h = 0; h < 2; ++h) {
            const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 8 * h));
            const __m256i low = low_nibbles(w), high = high_nibbles(w);
            for (int r = 0; r < rows; ++r) {
                const __m256i of_low = counts_of_nibbles(_mm256_xor_si256(low, broadcast(input.low[r][k])));
                const __m256i of_high = counts_of_nibbles(_mm256_xor_si256(high, broadcast(input.high[r][k])));
                bytes[r][h] = _mm256_add_epi8(bytes[r][h], _mm256_add_epi8(of_low, of_high));
            }
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int h = 0; h < 2; ++h) {
            __m256i& sum = counts[r][block].half[h];
            sum = _mm256_add_epi32(sum, sums_of_four_bytes(bytes[r][h]));
        }
}

template <int rows, int blocks>
inline void count(const BitSums& of, const std::uint32_t* input, const std::uint32_t* weights,
                  Counts (&counts)[rows][blocks]) {
    const std::int64_t panel = of.segments * of.segment_words * kBlock;
    for (auto& row : counts)
        for (Counts& count : row) count.half[0] = count.half[1] = _mm256_setzero_si256();
    Nibbles<rows> nibbles;
    const auto split = [&nibbles](int row, int at, const std::uint32_t* source, int n) {
        for (int k = 0; k < n; ++k) {
            nibbles.low[row][at + k] = source[k] & 0x0f0f0f0fu;
            nibbles.high[row][at + k] = (source[k] >> 4) & 0x0f0f0f0fu;
        }
    };
    Words words(of, input);
    while (const int n = words.next<rows>(kChunk, split)) {
        for (int b = 0; b < blocks; ++b) count_chunk(nibbles, weights + b * panel, n, b, counts);
        weights += n * kBlock;
    }
}

inline __m256i half_of(const std::int32_t* numbers, int half) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers + 8 * half));
}

inline std::uint32_t at_most(const Counts& counts, const std::int32_t* most) {
    std::uint32_t above[2];
    for (int h = 0; h < 2; ++h)
        above[h] = static_cast<std::uint32_t>(
            _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(counts.half[h], half_of(most, h)))));
    return ~(above[0] | above[1] << 8) & 0xffffu;
}

inline __m256i sums(const Counts& counts, const std::int32_t* base, int half) {
    return _mm256_sub_epi32(half_of(base, half), _mm256_slli_epi32(counts.half[half], 1));
}

inline void store_sums(const Counts& counts, const std::int32_t* base, std::int32_t* to, int channels) {
    alignas(32) std::int32_t all[kBlock];
    for (int h = 0; h < 2; ++h)
        _mm256_store_si256(reinterpret_cast<__m256i*>(all + 8 * h), sums(counts, base, h));
    for (int c = 0; c < channels; ++c) to[c] = all[c];
}

inline void store_affine(const Counts& counts, const std::int32_t* base, const float* scale, const float* bias,
                         float* to, int channels) {
    alignas(32) float all[kBlock];
    for (int h = 0; h < 2; ++h) {
        const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums(counts, base, h)), _mm256_loadu_ps(scale + 8 * h));
        _mm256_store_ps(all + 8 * h, _mm256_add_ps(scaled, _mm256_loadu_ps(bias + 8 * h)));
    }
    for (int c = 0; c < channels; ++c) to[c] = all[c];
}

}  // namespace
}  // namespace bitrelax::BITRELAX_LEVEL
