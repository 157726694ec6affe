// Counts of differing bits with NEON: VCNT counts bytes, 31 words are added in bytes (31 x 8 = 248) and widened
// pairwise.
#pragma once

#include <arm_neon.h>

#include "bitsum_lanes.h"
#include "bitsum_words.h"

namespace bitrelax::BITRELAX_LEVEL {
namespace {

constexpr int kChunk = 31;  // words whose counts fit a byte

template <int rows, int blocks>
inline void count_chunk(const std::uint32_t (&input)[rows][kChunk + 1], const std::uint32_t* weights, int words,
                        int block, Counts (&counts)[rows][blocks]) {
    uint8x16_t bytes[rows][4];
    for (auto& row : bytes)
        for (uint8x16_t& quarter : row) quarter = vdupq_n_u8(0);
    for (int k = 0; k < words; ++k, weights += kBlock)
        for (int r = 0; r < rows; ++r) {
            const uint32x4_t word = vdupq_n_u32(input[r][k]);
            for (int q = 0; q < 4; ++q)
                bytes[r][q] = vaddq_u8(
                    bytes[r][q], vcntq_u8(vreinterpretq_u8_u32(veorq_u32(word, vld1q_u32(weights + 4 * q)))));
        }
    for (int r = 0; r < rows; ++r)
        for (int q = 0; q < 4; ++q) {
            Lanes& sum = counts[r][block].quarter[q];
            sum += reinterpret_cast<Lanes>(vpaddlq_u16(vpaddlq_u8(bytes[r][q])));
        }
}

template <int rows, int blocks>
inline void count(const BitSums& of, const std::uint32_t* input, const std::uint32_t* weights,
                  Counts (&counts)[rows][blocks]) {
    const std::int64_t panel = of.segments * of.segment_words * kBlock;
    for (auto& row : counts)
        for (Counts& count : row)
            for (Lanes& quarter : count.quarter) quarter = broadcast(0);
    std::uint32_t chunk[rows][kChunk + 1];
    const auto copy = [&chunk](int row, int at, const std::uint32_t* source, int n) {
        std::memcpy(chunk[row] + at, source, sizeof *source * static_cast<std::size_t>(n));
    };
    Words words(of, input);
    while (const int n = words.next<rows>(kChunk, copy)) {
        for (int b = 0; b < blocks; ++b) count_chunk(chunk, weights + b * panel, n, b, counts);
        weights += n * kBlock;
    }
}

}  // namespace
}  // namespace bitrelax::BITRELAX_LEVEL
