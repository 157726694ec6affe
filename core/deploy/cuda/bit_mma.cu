// Sums of bits on bit tensor cores, in the form that is native from sm_80 to sm_90: s = base - 2 pa + 4 popcount(a and b).
//
// A block makes 128 rows x 128 outputs, each of its 8 warps 64 x 32, from stages of 1024 bits (8 chunks of 16 bytes a
// vector) that asynchronous copies fill two ahead. pa, the bits of a row of x, is counted on the way, each warp a quarter
// of its rows. Which words of a stage meet in one mma is free as long as both operands agree: a lane's 16-byte load
// serves two.
#include "sums.h"

constexpr int kSide = 128, kStages = 3, kWords = 32, kChunks = 8, kThreads = 256;

struct Stage {
    u32 x[kSide][kWords], weights[kSide][kWords];
};
struct Rows {
    int4 rows[kSide];
    int counts[kSide];
};

// Odd rows keep their chunks four further on: 8 lanes that read 4 chunks of 2 rows meet all 32 banks.
__device__ __forceinline__ int word_in(int row, int word) { return word ^ (row & 1) << 4; }

// One stage of x in pieces of `bytes`: 16 where taps are whole chunks, else 4.
template <bool conv, int bytes>
__device__ __forceinline__ void copy_x(const Sums& p, const Rows& known, Stage& stage, int first_word) {
    constexpr int kPieces = 4 * kWords / bytes;  // a row
    const int word = static_cast<int>(threadIdx.x) % kPieces * (bytes / 4);
    const Tap tap = tap_of<conv>(p, first_word + word);
#pragma unroll
    for (int row = static_cast<int>(threadIdx.x) / kPieces; row < kSide; row += kThreads / kPieces) {
        const int place = place_of<conv>(p, known.rows[row], tap);
        copy_async<bytes>(&stage.x[row][word_in(row, word)], static_cast<const u32*>(p.x) + (place < 0 ? 0 : place),
                          place >= 0);
    }
}

__device__ __forceinline__ void copy_weights(const Sums& p, Stage& stage, int first_word, int first_output) {
    const int word = static_cast<int>(threadIdx.x) % kChunks * 4;
#pragma unroll
    for (int row = static_cast<int>(threadIdx.x) / kChunks; row < kSide; row += kThreads / kChunks) {
        const int output = first_output + row;
        const bool there = output < p.outputs && first_word + word < p.pitch;
        const long long vector = (static_cast<long long>(blockIdx.z) * p.outputs + output) * p.pitch;
        copy_async<16>(&stage.weights[row][word_in(row, word)], p.weights + (there ? vector + first_word + word : 0),
                       there);
    }
}

__device__ __forceinline__ uint4 chunk(const u32 (&vectors)[kSide][kWords], int row, int word) {
    return *reinterpret_cast<const uint4*>(&vectors[row][word_in(row, word)]);
}

__device__ __forceinline__ int bits_of(const uint4& a) { return __popc(a.x) + __popc(a.y) + __popc(a.z) + __popc(a.w); }

// Half a stage: 16 words of every vector, of which a lane holds chunk `lane % 4`.
__device__ __forceinline__ void multiply(const Stage& stage, int half, int y, int x, int lane, int (&sums)[4][4][4],
                                         int (&counts)[2]) {
    const int word = 16 * half + lane % 4 * 4, row = 64 * y + lane / 4, column = 32 * x + lane / 4;
    uint4 b[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) b[j] = chunk(stage.weights, column + 8 * j, word);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint4 upper = chunk(stage.x, row + 16 * i, word), lower = chunk(stage.x, row + 16 * i + 8, word);
        if (i == x) {
            counts[0] += bits_of(upper);
            counts[1] += bits_of(lower);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            mma_and(sums[i][j], upper.x, lower.x, upper.y, lower.y, b[j].x, b[j].y);
            mma_and(sums[i][j], upper.z, lower.z, upper.w, lower.w, b[j].z, b[j].w);
        }
    }
}

// What follows the sums of one row that four lanes share: columns 8 j + 2 q and the next, q = lane % 4.
__device__ __forceinline__ void finish(const Sums& p, int row, int kind, int count, int first, int quarter,
                                       const int (&sums)[4][2]) {
    u32 word = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            const int column = first + 8 * j + 2 * quarter + k;
            if (column >= p.outputs) continue;
            const int channel = static_cast<int>(blockIdx.z) * p.outputs + column;
            const int sum = p.base[kind * p.groups * p.outputs + channel] - 2 * count + 4 * sums[j][k];
            if (p.follows == kBits)
                word |= static_cast<u32>(sign_of(p, sum, channel)) << (8 * j + 2 * quarter + k);
            else if (row < p.rows)
                put(p, row, channel, sum);
        }
    if (p.follows != kBits) return;
    word |= shuffle_xor<1>(word);
    word |= shuffle_xor<2>(word);
    if (quarter == 0 && row < p.rows && first < p.outputs)
        put_word(p, row, static_cast<int>(blockIdx.z) * p.outputs + first, word);
}

template <bool conv, int bytes>
__device__ __forceinline__ void sum_mma(const Sums& p) {
    DYNAMIC_SHARED(memory);  // kStages stages: more than a static array may have
    SHARED(Rows, known);
    Stage* const stages = reinterpret_cast<Stage*>(memory);
    const int first_row = static_cast<int>(blockIdx.x) * kSide, first_output = static_cast<int>(blockIdx.y) * kSide;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, y = warp / 4, x = warp % 4;
    if (threadIdx.x < kSide) {
        known.rows[threadIdx.x] = row_of<conv>(p, first_row + static_cast<int>(threadIdx.x));
        known.counts[threadIdx.x] = 0;
    }
    __syncthreads();  // copies ask for other threads' rows
    const int steps = (p.depth + kWords - 1) / kWords;
    for (int step = 0; step < kStages - 1; ++step) {
        if (step < steps) {
            copy_x<conv, bytes>(p, known, stages[step], step * kWords);
            copy_weights(p, stages[step], step * kWords, first_output);
        }
        copies_commit();
    }
    int sums[4][4][4] = {}, counts[2] = {};
    for (int step = 0; step < steps; ++step) {
        copies_wait<kStages - 2>();
        __syncthreads();  // this stage is everybody's, and the one before it is read
        const int ahead = step + kStages - 1;
        if (ahead < steps) {
            copy_x<conv, bytes>(p, known, stages[ahead % kStages], ahead * kWords);
            copy_weights(p, stages[ahead % kStages], ahead * kWords, first_output);
        }
        copies_commit();
        multiply(stages[step % kStages], 0, y, x, lane, sums, counts);
        multiply(stages[step % kStages], 1, y, x, lane, sums, counts);
    }
    copies_wait<0>();
    atomicAdd(&known.counts[64 * y + 16 * x + lane / 4], counts[0]);
    atomicAdd(&known.counts[64 * y + 16 * x + lane / 4 + 8], counts[1]);
    __syncthreads();  // counts are whole
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
            const int row = 64 * y + 16 * i + 8 * lower + lane / 4;
            const int pairs[4][2] = {{sums[i][0][2 * lower], sums[i][0][2 * lower + 1]},
                                     {sums[i][1][2 * lower], sums[i][1][2 * lower + 1]},
                                     {sums[i][2][2 * lower], sums[i][2][2 * lower + 1]},
                                     {sums[i][3][2 * lower], sums[i][3][2 * lower + 1]}};
            finish(p, first_row + row, known.rows[row].w, known.counts[row], first_output + 32 * x, lane % 4, pairs);
        }
}

KERNEL(bits_linear_mma16, Sums, 256) { sum_mma<false, 16>(p); }
KERNEL(bits_linear_mma4, Sums, 256) { sum_mma<false, 4>(p); }
KERNEL(bits_conv_mma16, Sums, 256) { sum_mma<true, 16>(p); }
KERNEL(bits_conv_mma4, Sums, 256) { sum_mma<true, 4>(p); }
