// How fast the instructions themselves are (G0): independent chains in registers, no memory. One number a thread comes
// out, so that nothing is left out by the compiler.
#include "device.h"

struct Rates {
    u32* out;
    int turns;
    u32 seed;
};

constexpr int kChains = 8;

__device__ __forceinline__ u32 mixed(u32 x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

template <class Multiply>
__device__ __forceinline__ void mma_rate(const Rates& p, Multiply multiply) {
    const u32 place = blockIdx.x * blockDim.x + threadIdx.x;
    u32 words[6];
    for (int i = 0; i < 6; ++i) words[i] = mixed(p.seed + 6 * place + i);
    int sums[kChains][4] = {};
    for (int turn = 0; turn < p.turns; ++turn)
#pragma unroll
        for (int i = 0; i < kChains; ++i)
            multiply(sums[i], words[0], words[1], words[2], words[3], words[4], words[5]);
    u32 all = 0;
    for (int i = 0; i < kChains; ++i)
        for (int j = 0; j < 4; ++j) all += static_cast<u32>(sums[i][j]);
    p.out[place] = all;
}

// kChains mma of 16 x 8 x 256 a turn and warp.
KERNEL(rate_mma_and, Rates, 256) {
    mma_rate(p, [](int (&s)[4], u32 a, u32 b, u32 c, u32 d, u32 e, u32 f) { mma_and(s, a, b, c, d, e, f); });
}
KERNEL(rate_mma_xor, Rates, 256) {
    mma_rate(p, [](int (&s)[4], u32 a, u32 b, u32 c, u32 d, u32 e, u32 f) { mma_xor(s, a, b, c, d, e, f); });
}
// 2 kChains words a turn and thread: xor, popcount, add; the words change with the sums, else one count would do.
KERNEL(rate_popc, Rates, 256) {
    const u32 place = blockIdx.x * blockDim.x + threadIdx.x;
    u32 words[kChains];
    int sums[kChains] = {};
    for (int i = 0; i < kChains; ++i) words[i] = mixed(p.seed + kChains * place + i);
    for (int turn = 0; turn < p.turns; ++turn)
#pragma unroll
        for (int i = 0; i < kChains; ++i) {
            sums[i] += __popc(words[i] ^ static_cast<u32>(turn));
            sums[i] += __popc(words[i] ^ ~static_cast<u32>(turn * 3));
        }
    int all = 0;
    for (int i = 0; i < kChains; ++i) all += sums[i];
    p.out[place] = static_cast<u32>(all);
}
