// Linear layers over at most 8 rows of bits: as fast as the weights can be read. A warp makes 4 outputs, a block 32.
#include "sums.h"

constexpr int kOutputs = 4, kWarps = 8;

struct Counts {
    int of[8][32];
};

// 16 bytes of a row; words beyond the depth are 0, as they are in the weights.
__device__ __forceinline__ uint4 four_words(const u32* row, int word, int depth, bool aligned) {
    if (aligned) return *reinterpret_cast<const uint4*>(row + word);
    return {row[word], word + 1 < depth ? row[word + 1] : 0, word + 2 < depth ? row[word + 2] : 0,
            word + 3 < depth ? row[word + 3] : 0};
}

__device__ __forceinline__ int differ(const uint4& a, const uint4& b) {
    return __popc(a.x ^ b.x) + __popc(a.y ^ b.y) + __popc(a.z ^ b.z) + __popc(a.w ^ b.w);
}

template <int rows>
__device__ __forceinline__ void count(const Sums& p, int first, int lane, int (&counts)[kOutputs][rows]) {
    const bool aligned = p.pixel % 4 == 0;
    const u32* const x = static_cast<const u32*>(p.x);
#pragma unroll 2
    for (int word = 4 * lane; word < p.depth; word += 128) {
        uint4 inputs[rows];
#pragma unroll
        for (int i = 0; i < rows; ++i)
            if (i < p.rows) inputs[i] = four_words(x + static_cast<long long>(i) * p.pixel, word, p.depth, aligned);
#pragma unroll
        for (int j = 0; j < kOutputs; ++j) {
            if (first + j >= p.outputs) break;
            const uint4 weights = *reinterpret_cast<const uint4*>(p.weights + static_cast<long long>(first + j) * p.pitch + word);
#pragma unroll
            for (int i = 0; i < rows; ++i)
                if (i < p.rows) counts[j][i] += differ(inputs[i], weights);
        }
    }
}

__device__ __forceinline__ int over_warp(int value) {
    value += static_cast<int>(shuffle_xor<1>(static_cast<u32>(value)));
    value += static_cast<int>(shuffle_xor<2>(static_cast<u32>(value)));
    value += static_cast<int>(shuffle_xor<4>(static_cast<u32>(value)));
    value += static_cast<int>(shuffle_xor<8>(static_cast<u32>(value)));
    return value + static_cast<int>(shuffle_xor<16>(static_cast<u32>(value)));
}

template <int rows>
__device__ __forceinline__ void sum_few(const Sums& p) {
    SHARED(Counts, all);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = static_cast<int>(blockIdx.x) * 32;
    int counts[kOutputs][rows] = {};
    count<rows>(p, first + kOutputs * warp, lane, counts);
#pragma unroll
    for (int j = 0; j < kOutputs; ++j)
#pragma unroll
        for (int i = 0; i < rows; ++i) {
            const int sum = over_warp(counts[j][i]);
            if (lane == 0) all.of[i][kOutputs * warp + j] = sum;
        }
    __syncthreads();  // a word of outputs is of all warps
    for (int row = warp; row < p.rows; row += kWarps) {
        const int channel = first + lane;
        const bool there = channel < p.outputs;
        const int sum = there ? p.base[channel] - 2 * all.of[row][lane] : 0;
        const u32 word = ballot(there && p.follows == kBits && sign_of(p, sum, channel));
        if (p.follows != kBits && there) put(p, row, channel, sum);
        if (p.follows == kBits && lane == 0) put_word(p, row, first, word);
    }
}

KERNEL(bits_linear_few1, Sums, 256) { sum_few<1>(p); }
KERNEL(bits_linear_few2, Sums, 256) { sum_few<2>(p); }
KERNEL(bits_linear_few4, Sums, 256) { sum_few<4>(p); }
KERNEL(bits_linear_few8, Sums, 256) { sum_few<8>(p); }
