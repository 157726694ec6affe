// Sums of any kind by tiles of 64 rows x 64 outputs, four by four a thread, operands in shared memory unit by unit.
//
// Bits: popcount of xor, bound by POPC alone, for devices whose bit tensor cores are gone (sm_100 on) and small layers.
// Bytes: pixels times weights 0 and 1 by dp4a; s = 2 P - T with T the sum of the row's pixels. Floats: fused products.
#include "sums.h"

constexpr int kSide = 64, kUnits = 32, kPitch = kSide + 4;  // + 4: four banks aside, and 16-byte loads stay aligned

struct Tile {
    u32 x[kUnits][kPitch], weights[kUnits][kPitch];
    int4 rows[kSide];
    int totals[kSide];
};

// How one kind of sum reads and multiplies. `unit` counts from the start of a weight vector.
struct Bits {
    using Number = int;
    static constexpr bool kTotals = false, kExact = true;
    template <bool conv>
    static __device__ __forceinline__ u32 x(const Sums& p, const int4& row, int unit) {
        const int place = place_of<conv>(p, row, tap_of<conv>(p, unit));
        return place < 0 ? 0 : static_cast<const u32*>(p.x)[place];
    }
    static __device__ __forceinline__ u32 weight(const Sums&, const u32* vector, int unit) { return vector[unit]; }
    static __device__ __forceinline__ int step(u32 a, u32 b, int sum) { return sum + __popc(a ^ b); }
    static __device__ __forceinline__ int finish(const Sums& p, int sum, int, int kind, int channel) {
        return p.base[kind * p.groups * p.outputs + channel] - 2 * sum;
    }
};

struct Bytes {
    using Number = int;
    static constexpr bool kTotals = true, kExact = true;
    template <bool conv>
    static __device__ __forceinline__ u32 x(const Sums& p, const int4& row, int unit) {
        u32 four = 0;
        for (int i = 0; i < 4; ++i) {  // here rows, taps and places count bytes
            const int place = place_of<conv>(p, row, tap_of<conv>(p, 4 * unit + i));
            if (place >= 0) four |= static_cast<u32>(static_cast<const u8*>(p.x)[place]) << 8 * i;
        }
        return four;
    }
    static __device__ __forceinline__ u32 weight(const Sums&, const u32* vector, int unit) { return vector[unit]; }
    static __device__ __forceinline__ int step(u32 a, u32 b, int sum) {
        return static_cast<int>(__dp4a(a, b, static_cast<u32>(sum)));
    }
    static __device__ __forceinline__ int finish(const Sums&, int sum, int total, int, int) { return 2 * sum - total; }
};

struct Reals {
    using Number = float;
    static constexpr bool kTotals = false, kExact = false;
    template <bool conv>
    static __device__ __forceinline__ u32 x(const Sums& p, const int4& row, int unit) {
        return Bits::x<conv>(p, row, unit);
    }
    static __device__ __forceinline__ u32 weight(const Sums&, const u32* vector, int unit) { return vector[unit]; }
    static __device__ __forceinline__ float step(u32 a, u32 b, float sum) {
        return __uint_as_float(a) * __uint_as_float(b) + sum;
    }
    static __device__ __forceinline__ float finish(const Sums&, float sum, int, int, int) { return sum; }
};

// Weights in memory as bits, each tap from a whole word on; +1.0 and -1.0 in shared memory.
struct Signs : Reals {
    static __device__ __forceinline__ u32 weight(const Sums& p, const u32* vector, int unit) {
        const int tap = unit / p.tap_units, channel = unit - tap * p.tap_units;
        const u32 word = vector[tap * ((p.tap_units + 31) / 32) + channel / 32];
        return __float_as_uint(word >> channel % 32 & 1 ? 1.0f : -1.0f);
    }
};

template <class Kind, bool conv>
__device__ __forceinline__ void load(const Sums& p, Tile& tile, int units, int first_unit, int first_output) {
    const int mine = threadIdx.x % kSide;  // this row of x and this weight vector: stores without bank conflicts
    const int output = first_output + mine;
    const u32* vector = p.weights + (static_cast<long long>(blockIdx.z) * p.outputs + output) * p.pitch;
    const int4 row = tile.rows[mine];
    int total = 0;
    for (int i = threadIdx.x / kSide; i < kUnits; i += 4) {
        const int unit = first_unit + i;
        const u32 x = unit < units ? Kind::template x<conv>(p, row, unit) : 0;
        tile.x[i][mine] = x;
        tile.weights[i][mine] = unit < units && output < p.outputs ? Kind::weight(p, vector, unit) : 0;
        if constexpr (Kind::kTotals) total = static_cast<int>(__dp4a(x, 0x01010101u, static_cast<u32>(total)));
    }
    if constexpr (Kind::kTotals) atomicAdd(&tile.totals[mine], total);
}

template <class Kind>
__device__ __forceinline__ void multiply(const Tile& tile, int y, int x, typename Kind::Number (&sums)[4][4]) {
#pragma unroll 8
    for (int unit = 0; unit < kUnits; ++unit) {
        const uint4 a = *reinterpret_cast<const uint4*>(&tile.x[unit][4 * y]);
        const uint4 b = *reinterpret_cast<const uint4*>(&tile.weights[unit][4 * x]);
        const u32 rows[4] = {a.x, a.y, a.z, a.w}, columns[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[i][j] = Kind::step(rows[i], columns[j], sums[i][j]);
    }
}

// Bits of 32 channels lie with 8 neighbouring lanes, 4 each.
__device__ __forceinline__ void put_bits(const Sums& p, int row, int first, int x, const int (&sums)[4]) {
    u32 word = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const int column = first + 4 * x + j;
        const int channel = static_cast<int>(blockIdx.z) * p.outputs + column;
        if (column < p.outputs && sign_of(p, sums[j], channel)) word |= 1u << (4 * (x % 8) + j);
    }
    word |= shuffle_xor<1>(word);
    word |= shuffle_xor<2>(word);
    word |= shuffle_xor<4>(word);
    const int start = first + 4 * x;
    if (x % 8 == 0 && row < p.rows && start < p.outputs)
        put_word(p, row, static_cast<int>(blockIdx.z) * p.outputs + start, word);
}

template <class Kind, bool conv>
__device__ __forceinline__ void sum_tile(const Sums& p) {
    SHARED(Tile, tile);
    const int first_row = static_cast<int>(blockIdx.x) * kSide, first_output = static_cast<int>(blockIdx.y) * kSide;
    const int y = threadIdx.x / 16, x = threadIdx.x % 16;
    if (threadIdx.x < kSide) {
        tile.rows[threadIdx.x] = row_of<conv>(p, first_row + static_cast<int>(threadIdx.x));
        tile.totals[threadIdx.x] = 0;
    }
    typename Kind::Number sums[4][4] = {};
    const int units = Kind::kTotals ? (p.depth + 3) / 4 : p.depth;  // the depth of bytes is told in bytes
    for (int unit = 0; unit < units; unit += kUnits) {
        __syncthreads();  // rows are known; nobody reads the last tile any more
        load<Kind, conv>(p, tile, units, unit, first_output);
        __syncthreads();
        multiply<Kind>(tile, y, x, sums);
    }
    for (int i = 0; i < 4; ++i) {
        const int row = first_row + 4 * y + i;
        const int total = tile.totals[4 * y + i], kind = tile.rows[4 * y + i].w;
        for (int j = 0; j < 4; ++j) {
            const int column = first_output + 4 * x + j, channel = static_cast<int>(blockIdx.z) * p.outputs + column;
            if (column < p.outputs) sums[i][j] = Kind::finish(p, sums[i][j], total, kind, channel);
            if (p.follows != kBits && row < p.rows && column < p.outputs) put(p, row, channel, sums[i][j]);
        }
        if constexpr (Kind::kExact)
            if (p.follows == kBits) put_bits(p, row, first_output, x, sums[i]);
    }
}

KERNEL(bits_linear_tile, Sums, 256) { sum_tile<Bits, false>(p); }
KERNEL(bits_conv_tile, Sums, 256) { sum_tile<Bits, true>(p); }
KERNEL(bytes_linear_tile, Sums, 256) { sum_tile<Bytes, false>(p); }
KERNEL(bytes_conv_tile, Sums, 256) { sum_tile<Bytes, true>(p); }
KERNEL(signs_linear_tile, Sums, 256) { sum_tile<Signs, false>(p); }
KERNEL(signs_conv_tile, Sums, 256) { sum_tile<Signs, true>(p); }
KERNEL(reals_linear_tile, Sums, 256) { sum_tile<Reals, false>(p); }
KERNEL(reals_conv_tile, Sums, 256) { sum_tile<Reals, true>(p); }
