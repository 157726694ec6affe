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
        for (std::int64_t lane = 0; lane < kLanes; ++lane) out[lane] = static_cast<float>(sums[lane]) * scale[lane] + bias[lane];
        std::memcpy(p.out[row] + first * sizeof(float), out, static_cast<std::size_t>(count) * sizeof(float));
    } else if (p.after == After::sums) {
        std::memcpy(p.out[row] + first * sizeof(Sum), sums, static_cast<std::size_t>(count) * sizeof(Sum));
    }
}

// Bits of one block, 0 for channels that are not there.
inline std::uint32_t bits_of(const Panel& p, std::int64_t block, const std::int32_t* sums) {
    const std::int32_t* at = p.at + block * kLanes;
#if defined(__AVX512F__)
    std::uint32_t bits = _mm512_cmp_epi32_mask(_mm512_loadu_si512(sums), _mm512_loadu_si512(at), _MM_CMPINT_NLT);
#else
    std::uint32_t bits = 0;
    for (std::int64_t lane = 0; lane < kLanes; ++lane) bits |= static_cast<std::uint32_t>(sums[lane] >= at[lane]) << lane;
#endif
    const std::int64_t count = std::min(kLanes, p.outputs - block * kLanes);
    return (bits ^ p.flip[block]) & ((1u << count) - 1);
}

template <class Sum>
void finish_bits(const Panel&, std::int64_t, std::int64_t, const Sum*) {}  // real sums become no bits

template <>
void finish_bits(const Panel& p, std::int64_t row, std::int64_t block, const std::int32_t* sums) {
    std::uint32_t* word = reinterpret_cast<std::uint32_t*>(p.out[row]) + block / 2;
    const std::uint32_t bits = bits_of(p, block, sums);
    *word = block % 2 ? *word | bits << 16 : bits;
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
    typename Lanes::Sum stored[kLanes];
    for (int b = 0; b < blocks; ++b)
        for (int r = 0; r < rows; ++r) {
            sums[b][r].store(stored);
            if (p.after == After::bits)
                finish_bits(p, row + r, block + b, stored);
            else
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
