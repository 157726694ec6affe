// Sums over pixels and real values: rows in registers by blocks of 16 channels, and what follows each sum.
#include <algorithm>

#include "packed.h"
#include "packed_lanes.h"

namespace bitrelax {
namespace BITRELAX_LEVEL {
namespace {

// What the 16 sums of block `block` of row `row` become.
template <class Sum>
void finish(const Panel& p, std::int64_t row, std::int64_t block, const Sum* sums) {
    const std::int64_t first = block * kLanes, count = std::min(kLanes, p.outputs - first);
    if (p.after == After::affine) {
        const float *scale = p.scale + first, *bias = p.bias + first;
        float out[kLanes];
        for (std::int64_t lane = 0; lane < kLanes; ++lane)
            out[lane] = static_cast<float>(sums[lane]) * scale[lane] + bias[lane];
        std::memcpy(p.out[row] + first * sizeof(float), out, static_cast<std::size_t>(count) * sizeof(float));
    } else if (p.after == After::sums) {
        std::memcpy(p.out[row] + first * sizeof(Sum), sums, static_cast<std::size_t>(count) * sizeof(Sum));
    }
}

// Bits of one block, 0 for channels that are not there.
template <class Lanes>
inline std::uint32_t bits_of(const Panel& p, std::int64_t block, const Lanes& sums) {
    const std::int64_t count = p.outputs - block * kLanes;
    const std::uint32_t there = count < kLanes ? (1u << count) - 1 : 0xffffu;
    return (sums.at_least(p.at + block * kLanes) ^ p.flip[block]) & there;
}

// The bits of two blocks, the first of them even, are a word; a block by itself writes its half, the first one the
// other as well.
template <class Lanes, int rows, int blocks>
inline void finish_bits(const Panel& p, std::int64_t row, std::int64_t block, const Lanes (&sums)[blocks][rows]) {
    for (int r = 0; r < rows; ++r) {
        std::uint32_t* word = reinterpret_cast<std::uint32_t*>(p.out[row + r]) + block / 2;
        if constexpr (blocks % 2 == 0) {
            for (int b = 0; b < blocks; b += 2)
                word[b / 2] = bits_of(p, block + b, sums[b][r]) | bits_of(p, block + b + 1, sums[b + 1][r]) << 16;
        } else {
            const std::uint32_t bits = bits_of(p, block, sums[0][r]);
            *word = block % 2 ? *word | bits << 16 : bits;
        }
    }
}

template <class Lanes, int rows, int blocks>
void tile(const Panel& p, std::int64_t row, std::int64_t block) {
    using Number = typename Lanes::Number;
    const Number* x = static_cast<const Number*>(p.rows) + row * p.pitch;
    const std::int64_t steps = p.taps / Lanes::kStep, panel = steps * Lanes::kStride;
    const auto* w = static_cast<const typename Lanes::Word*>(p.weights) + block * panel;
    Lanes sums[blocks][rows];
    for (std::int64_t step = 0; step < steps; ++step)
        for (int b = 0; b < blocks; ++b) {
            const auto weights = Lanes::weights(w + b * panel + step * Lanes::kStride);
            for (int r = 0; r < rows; ++r) sums[b][r].add(x + r * p.pitch + step * Lanes::kStep, weights);
        }
    if constexpr (Lanes::kStep == 4) {  // sums of pixels; real ones become no bits
        if (p.after == After::bits) return finish_bits(p, row, block, sums);
    }
    typename Lanes::Sum stored[kLanes];
    for (int r = 0; r < rows; ++r)
        for (int b = 0; b < blocks; ++b) {
            sums[b][r].store(stored);
            finish(p, row + r, block + b, stored);
        }
}

template <class Lanes, int rows>
void across(const Panel& p, std::int64_t row) {
    constexpr int most = rows == 1 ? 2 * kMostBlocks : kMostBlocks;
    std::int64_t block = 0;
    for (; block + most <= p.blocks; block += most) tile<Lanes, rows, most>(p, row, block);
    for (; block < p.blocks; ++block) tile<Lanes, rows, 1>(p, row, block);
}

template <class Lanes>
void panel(const Panel& p) {
    std::int64_t row = 0;
    for (; row + kMostRows <= p.count; row += kMostRows) across<Lanes, kMostRows>(p, row);
    for (; row + 2 <= p.count; row += 2) across<Lanes, 2>(p, row);
    for (; row < p.count; ++row) across<Lanes, 1>(p, row);
}

}  // namespace

void panel_u8(const Panel& p) { panel<Pixels>(p); }
void panel_signs(const Panel& p) { panel<Signs>(p); }
void panel_reals(const Panel& p) { panel<Reals>(p); }

}  // namespace BITRELAX_LEVEL
}  // namespace bitrelax
