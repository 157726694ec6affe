// Sums over packed words in register blocks of up to 4 rows x 4 blocks of 16 channels. How bits are counted is the
// level's own (bitsum_*.h: `Counts`, `count` and three ways to store them); what is done with the counts is here.
#include "bitsum.h"

#if defined(__AVX512VPOPCNTDQ__)
#include "bitsum_avx512.h"
#elif defined(__AVX2__)
#include "bitsum_avx2.h"
#elif defined(__ARM_NEON)
#include "bitsum_neon.h"
#else
#include "bitsum_portable.h"
#endif

namespace bitrelax::BITRELAX_LEVEL {
namespace {

constexpr int kRows = 4, kBlocks = 4;  // of a register block

// A register block's place: where its first row and block are among all.
struct Place {
    std::int64_t row, block;
};

inline std::int64_t all_blocks(const BitSums& of) { return (of.outputs + kBlock - 1) / kBlock; }

// Where row r's table begins, block `block` in it.
inline std::int64_t table(const BitSums& of, std::int64_t row, std::int64_t block) {
    return ((of.row_class ? of.row_class[row] : 0) * all_blocks(of) + block) * kBlock;
}

inline int channels_of(const BitSums& of, std::int64_t block) {
    const std::int64_t left = of.outputs - block * kBlock;
    return static_cast<int>(left < kBlock ? left : kBlock);
}

// Blocks begin at an even one, so that a register block owns whole words of bits; the half without a block is 0.
template <int blocks>
inline void store(const BitSums& of, const ToBits& to, Place at, const Counts (&counts)[blocks]) {
    const std::int32_t* const most = to.most + table(of, at.row, at.block);
    const auto half = [&](int b) { return at_most(counts[b], most + b * kBlock) ^ to.flip[at.block + b]; };
    std::uint32_t* const words = to.bits + at.row * to.pitch + at.block / 2;
    for (int b = 0; b + 1 < blocks; b += 2) words[b / 2] = half(b) | half(b + 1) << 16;
    if constexpr (blocks % 2) words[blocks / 2] = half(blocks - 1);
}

template <int blocks>
inline void store(const BitSums& of, const ToSums& to, Place at, const Counts (&counts)[blocks]) {
    const std::int32_t* const base = to.base + table(of, at.row, at.block);
    std::int32_t* const sums = to.sums + at.row * to.pitch + at.block * kBlock;
    for (int b = 0; b < blocks; ++b)
        store_sums(counts[b], base + b * kBlock, sums + b * kBlock, channels_of(of, at.block + b));
}

template <int blocks>
inline void store(const BitSums& of, const ToAffine& to, Place at, const Counts (&counts)[blocks]) {
    const std::int32_t* const base = to.base + table(of, at.row, at.block);
    const float* const scale = to.scale + at.block * kBlock;
    const float* const bias = to.bias + at.block * kBlock;
    float* const out = to.out + at.row * to.pitch + at.block * kBlock;
    for (int b = 0; b < blocks; ++b)
        store_affine(counts[b], base + b * kBlock, scale + b * kBlock, bias + b * kBlock, out + b * kBlock,
                     channels_of(of, at.block + b));
}

template <int rows, int blocks, class To>
void register_block(const BitSums& of, const To& to, Place at) {
    Counts counts[rows][blocks];
    const std::int64_t panel = of.segments * of.segment_words * kBlock;
    count(of, of.input + at.row * of.row_pitch, of.weights + at.block * panel, counts);
    for (int r = 0; r < rows; ++r) store(of, to, {at.row + r, at.block}, counts[r]);
}

// All rows of `blocks` blocks, whose weights stay in the cache meanwhile. Five rows are 3 + 2: one row alone would be
// bound by loads.
template <int blocks, class To>
void all_rows(const BitSums& of, const To& to, std::int64_t block) {
    for (std::int64_t row = 0; row < of.rows;) {
        const std::int64_t left = of.rows - row;
        const Place at{row, block};
        if (left >= kRows && left != kRows + 1) {
            register_block<kRows, blocks>(of, to, at);
            row += kRows;
        } else if (left >= 3) {
            register_block<3, blocks>(of, to, at);
            row += 3;
        } else if (left == 2) {
            register_block<2, blocks>(of, to, at);
            row += 2;
        } else {
            register_block<1, blocks>(of, to, at);
            row += 1;
        }
    }
}

template <class To>
void run(const BitSums& of, const To& to) {
    const std::int64_t blocks = all_blocks(of);
    std::int64_t block = 0;
    for (; block + kBlocks <= blocks; block += kBlocks) all_rows<kBlocks>(of, to, block);
    switch (blocks - block) {
        case 3: return all_rows<3>(of, to, block);
        case 2: return all_rows<2>(of, to, block);
        case 1: return all_rows<1>(of, to, block);
        default: return;
    }
}

}  // namespace

void bit_sums_to_bits(const BitSums& of, const ToBits& to) { run(of, to); }
void bit_sums(const BitSums& of, const ToSums& to) { run(of, to); }
void bit_sums_affine(const BitSums& of, const ToAffine& to) { run(of, to); }

}  // namespace bitrelax::BITRELAX_LEVEL
