// What the kernels that sum share: their parameters, where a row of outputs reads its inputs, and what follows a sum.
#pragma once
#include "device.h"

// x times weights, for `rows` positions and `outputs` channels a group (blockIdx.z is the group).
//
// Units are 32 bits wide: a word of bits, four bytes, or one float. A weight vector has `depth` units, in the order of
// (tap, unit of the tap), at steps of `pitch` units. A linear layer is one tap of the whole value.
struct Sums {
    const void* x;        // (images, height, width, pixel) units, or bytes where x is u8
    const u32* weights;   // (groups, outputs, pitch)
    const int* base;      // (classes, groups * outputs): what a sum is where no bit is counted; of bits only
    const int* row_class;     // (out_height,): class of a row of outputs, times the classes of columns
    const int* column_class;  // (out_width,)
    const int* at;        // (groups * outputs,): a sum of at or more is +1 ...
    const u32* flip;      // packed: ... or -1 here
    const float* scale;   // (groups * outputs,)
    const float* bias;
    void* out;            // (rows, groups * outputs) numbers, or whole words of bits
    int rows, outputs, groups, depth, pitch, tap_units;
    int height, width, pixel, group_units;  // a pixel has `pixel` units, a group begins at multiples of group_units
    int out_height, out_width, kernel_width, stride, dilation, padding;
    int follows;
};

enum Follows { kSums = 0, kAffine = 1, kBits = 2 };

// One row: where its image begins (in units), its upper left tap, its class. A row that is not there has y far outside.
constexpr int kNowhere = -(1 << 30);

template <bool conv>
__device__ __forceinline__ int4 row_of(const Sums& p, int row) {
    if (row >= p.rows) return {0, kNowhere, 0, 0};
    if constexpr (!conv) return {row * p.pixel, 0, 0, 0};
    const int x = row % p.out_width, line = row / p.out_width;
    const int y = line % p.out_height, image = line / p.out_height;
    const int kind = p.row_class ? p.row_class[y] + p.column_class[x] : 0;
    return {image * p.height * p.width * p.pixel, y * p.stride - p.padding, x * p.stride - p.padding, kind};
}

// One unit of a weight vector, as a step from the upper left tap. Units beyond the depth are never inside.
struct Tap {
    int y, x, unit;
};

template <bool conv>
__device__ __forceinline__ Tap tap_of(const Sums& p, int unit) {
    if (unit >= p.depth) return {kNowhere, 0, 0};
    if constexpr (!conv) return {0, 0, unit};
    const int tap = unit / p.tap_units;
    return {tap / p.kernel_width * p.dilation, tap % p.kernel_width * p.dilation, unit - tap * p.tap_units};
}

// Where the unit lies in x, or -1: a tap on the padding, a row or a unit that is not there.
template <bool conv>
__device__ __forceinline__ int place_of(const Sums& p, const int4& row, const Tap& tap) {
    if constexpr (!conv) return row.y + tap.y < 0 ? -1 : row.x + tap.unit;
    const int y = row.y + tap.y, x = row.z + tap.x;
    if (static_cast<u32>(y) >= static_cast<u32>(p.height) || static_cast<u32>(x) >= static_cast<u32>(p.width)) return -1;
    return row.x + (y * p.width + x) * p.pixel + static_cast<int>(blockIdx.z) * p.group_units + tap.unit;
}

__device__ __forceinline__ float affine(const Sums& p, float sum, int channel) {
    return __fadd_rn(__fmul_rn(sum, p.scale[channel]), p.bias[channel]);
}

__device__ __forceinline__ float as_float(int sum) { return __int2float_rn(sum); }
__device__ __forceinline__ float as_float(float sum) { return sum; }

// One finished sum into memory, as it is or after the affine map.
template <class Number>
__device__ __forceinline__ void put(const Sums& p, int row, int channel, Number sum) {
    const long long place = static_cast<long long>(row) * (p.groups * p.outputs) + channel;
    if (p.follows == kAffine)
        static_cast<float*>(p.out)[place] = affine(p, as_float(sum), channel);
    else
        static_cast<Number*>(p.out)[place] = sum;
}

__device__ __forceinline__ bool sign_of(const Sums& p, int sum, int channel) {
    return (sum >= p.at[channel]) != static_cast<bool>(p.flip[channel / 32] >> channel % 32 & 1);
}

// 32 bits of a row, from channel `first` of this block's group on; groups of whole words only.
__device__ __forceinline__ void put_word(const Sums& p, int row, int first, u32 word) {
    const int words = (p.groups * p.outputs + 31) / 32;
    static_cast<u32*>(p.out)[static_cast<long long>(row) * words + first / 32] = word;
}
