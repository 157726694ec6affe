// Counts of differing bits with nothing but logic, shifts and adds on four lanes (baseline x86-64 has no popcount): eight
// words are added bitwise by carry-save adders, and only every eighth word, of weight 8, is counted.
#pragma once

#include "bitsum_lanes.h"
#include "bitsum_words.h"

namespace bitrelax::BITRELAX_LEVEL {
namespace {

constexpr int kChunk = 128;  // words; their counts of weight 8 fit a byte: 128 / 8 x 8

// Each byte's count of bits.
inline Lanes counts_of_bytes(Lanes x) {
    x -= (x >> 1) & 0x55555555u;
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    return (x + (x >> 4)) & 0x0f0f0f0fu;
}

inline Lanes sums_of_four_bytes(Lanes x) {
    x = (x & 0x00ff00ffu) + ((x >> 8) & 0x00ff00ffu);
    return (x + (x >> 16)) & 0xffffu;
}

// sum + a + b, bit by bit: the sum stays, the carry is returned.
inline Lanes add(Lanes& sum, Lanes a, Lanes b) {
    const Lanes both = a ^ b, carry = (a & b) | (both & sum);
    sum ^= both;
    return carry;
}

// The lanes at `weights`, kBlock apart, of `words` words.
inline Lanes count_lanes(const Lanes* input, const std::uint32_t* weights, int words) {
    Lanes ones = broadcast(0), twos = ones, fours = ones, bytes = ones, eights_bytes = ones;
    const auto difference = [&](int k) { return input[k] ^ load<Lanes>(weights + k * kBlock); };
    int k = 0;
    for (; k + 8 <= words; k += 8) {
        const Lanes a = add(ones, difference(k), difference(k + 1));
        const Lanes b = add(ones, difference(k + 2), difference(k + 3));
        const Lanes ab = add(twos, a, b);
        const Lanes c = add(ones, difference(k + 4), difference(k + 5));
        const Lanes d = add(ones, difference(k + 6), difference(k + 7));
        eights_bytes += counts_of_bytes(add(fours, ab, add(twos, c, d)));
    }
    for (; k < words; ++k) bytes += counts_of_bytes(difference(k));  // at most 7 x 8 a byte, then at most 8 (1 + 2 + 4)
    bytes += counts_of_bytes(ones) + (counts_of_bytes(twos) << 1) + (counts_of_bytes(fours) << 2);
    return sums_of_four_bytes(bytes) + (sums_of_four_bytes(eights_bytes) << 3);
}

template <int rows, int blocks>
inline void count(const BitSums& of, const std::uint32_t* input, const std::uint32_t* weights,
                  Counts (&counts)[rows][blocks]) {
    const std::int64_t panel = of.segments * of.segment_words * kBlock;
    for (auto& row : counts)
        for (Counts& count : row)
            for (Lanes& quarter : count.quarter) quarter = broadcast(0);
    Lanes chunk[rows][kChunk];
    const auto spread = [&chunk](int row, int at, const std::uint32_t* source, int n) {
        for (int k = 0; k < n; ++k) chunk[row][at + k] = broadcast(source[k]);
    };
    Words words(of, input);
    while (const int n = words.next<rows>(kChunk, spread)) {
        for (int b = 0; b < blocks; ++b)
            for (int q = 0; q < 4; ++q)
                for (int r = 0; r < rows; ++r)
                    counts[r][b].quarter[q] += count_lanes(chunk[r], weights + b * panel + 4 * q, n);
        weights += n * kBlock;
    }
}

}  // namespace
}  // namespace bitrelax::BITRELAX_LEVEL
