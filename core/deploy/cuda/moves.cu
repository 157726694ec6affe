// Everything between sums: packing by ballot, affine maps, activations, pools, residual sums, and moves of data.
#include "device.h"

// `count` numbers (or words) of `out`, one thread each; those that pack: one warp a word.
struct Moves {
    const void* x;
    const void* y;      // the second summand
    const void* a;      // thresholds, scales, or the channels whose smallest is pooled
    const void* b;      // flips or biases
    void* out;
    int count, channels;             // channels: of x, in numbers; of a pool over bits in words
    int height, width, out_height, out_width;
    int size_y, size_x, stride_y, stride_x, padding;
    int pitch, offset, groups;       // of a copy: numbers of a row of out, where this part begins
};

__device__ __forceinline__ int thread() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

__device__ __forceinline__ int warp() { return static_cast<int>(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32); }

template <class T>
__device__ __forceinline__ const T* of(const void* p) {
    return static_cast<const T*>(p);
}

// Packing: word w of row r holds channels 32 w and on; `count` words in all.

template <class Sign>
__device__ __forceinline__ void pack(const Moves& p, Sign sign) {
    const int word = warp(), lane = threadIdx.x % 32;
    if (word >= p.count) return;  // a whole warp
    const int words = (p.channels + 31) / 32, row = word / words, channel = word % words * 32 + lane;
    const u32 bits = ballot(channel < p.channels && sign(row * p.channels + channel, channel));
    if (lane == 0) static_cast<u32*>(p.out)[word] = bits;
}

KERNEL(binarize_f32, Moves, 256) {
    pack(p, [&](int i, int channel) { return of<float>(p.x)[i] >= of<float>(p.a)[channel]; });
}
KERNEL(binarize_u8, Moves, 256) {
    pack(p, [&](int i, int channel) { return static_cast<float>(of<u8>(p.x)[i]) >= of<float>(p.a)[channel]; });
}
KERNEL(threshold_i32, Moves, 256) {
    pack(p, [&](int i, int channel) {
        const bool flip = of<u32>(p.b)[channel / 32] >> channel % 32 & 1;
        return (of<int>(p.x)[i] >= of<int>(p.a)[channel]) != flip;
    });
}

// Bits joined or parted where they do not fill words. (positions, words of `channels`) -> one line of positions x
// channels bits an example: count words in all, `pitch` positions an example.
KERNEL(flatten_bits, Moves, 256) {
    const int word = warp(), lane = threadIdx.x % 32;
    if (word >= p.count) return;
    const int total = p.pitch * p.channels, words = (total + 31) / 32, from = (p.channels + 31) / 32;
    const int example = word / words, bit = word % words * 32 + lane;
    const int position = bit / p.channels, channel = bit % p.channels;
    const bool set = bit < total && (of<u32>(p.x)[(example * p.pitch + position) * from + channel / 32] >> channel % 32 & 1);
    const u32 bits = ballot(set);
    if (lane == 0) static_cast<u32*>(p.out)[word] = bits;
}
// The channels of each group from a whole word on: `groups` groups of `pitch` channels.
KERNEL(part_groups, Moves, 256) {
    const int word = warp(), lane = threadIdx.x % 32;
    if (word >= p.count) return;
    const int words = (p.pitch + 31) / 32, row = word / (words * p.groups);
    const int group = word / words % p.groups, inside = word % words * 32 + lane, channel = group * p.pitch + inside;
    const bool set = inside < p.pitch &&
                     (of<u32>(p.x)[row * ((p.channels + 31) / 32) + channel / 32] >> channel % 32 & 1);
    const u32 bits = ballot(set);
    if (lane == 0) static_cast<u32*>(p.out)[word] = bits;
}

// One number a thread.

template <class In, class Out, class Function>
__device__ __forceinline__ void map(const Moves& p, Function function) {
    const int i = thread();
    if (i < p.count) static_cast<Out*>(p.out)[i] = function(of<In>(p.x)[i], i % p.channels);
}

__device__ __forceinline__ float affine(const Moves& p, float x, int channel) {
    return __fadd_rn(__fmul_rn(x, of<float>(p.a)[channel]), of<float>(p.b)[channel]);
}

KERNEL(affine_i32, Moves, 256) {
    map<int, float>(p, [&](int x, int channel) { return affine(p, __int2float_rn(x), channel); });
}
KERNEL(affine_f32, Moves, 256) {
    map<float, float>(p, [&](float x, int channel) { return affine(p, x, channel); });
}
KERNEL(float_i32, Moves, 256) {
    map<int, float>(p, [&](int x, int) { return __int2float_rn(x); });
}
KERNEL(float_u8, Moves, 256) {
    map<u8, float>(p, [&](u8 x, int) { return static_cast<float>(x); });
}
KERNEL(float_bits, Moves, 256) {
    const int i = thread();
    if (i >= p.count) return;
    const int row = i / p.channels, channel = i % p.channels, words = (p.channels + 31) / 32;
    const u32 word = of<u32>(p.x)[row * words + channel / 32];
    static_cast<float*>(p.out)[i] = word >> channel % 32 & 1 ? 1.0f : -1.0f;
}
KERNEL(relu, Moves, 256) {
    map<float, float>(p, [&](float x, int) { return x <= 0.0f ? 0.0f : x; });
}
KERNEL(hardtanh, Moves, 256) {
    map<float, float>(p, [&](float x, int) { return x < -1.0f ? -1.0f : x > 1.0f ? 1.0f : x; });
}
KERNEL(add_f32, Moves, 256) {
    map<float, float>(p, [&](float x, int) { return __fadd_rn(x, of<float>(p.y)[thread()]); });
}
KERNEL(add_i32, Moves, 256) {
    map<int, int>(p, [&](int x, int) {
        return static_cast<int>(static_cast<u32>(x) + static_cast<u32>(of<int>(p.y)[thread()]));
    });
}

// Raw images (channels, height, width) -> (height, width, channels).
template <class T>
__device__ __forceinline__ void channels_last(const Moves& p) {
    const int i = thread();
    if (i >= p.count) return;
    const int channel = i % p.channels, place = i / p.channels, area = p.height * p.width;
    static_cast<T*>(p.out)[i] = of<T>(p.x)[(place / area * p.channels + channel) * area + place % area];
}
KERNEL(channels_last_u8, Moves, 256) { channels_last<u8>(p); }
KERNEL(channels_last_f32, Moves, 256) { channels_last<float>(p); }

// One part of a concatenation.
template <class T>
__device__ __forceinline__ void put_part(const Moves& p) {
    const int i = thread();
    if (i < p.count) static_cast<T*>(p.out)[i / p.channels * p.pitch + p.offset + i % p.channels] = of<T>(p.x)[i];
}
KERNEL(concat_u8, Moves, 256) { put_part<u8>(p); }
KERNEL(concat_32, Moves, 256) { put_part<u32>(p); }

// Windows: calls `take(number)` for each entry inside, row by row. count: numbers of out. Returns how many there were.
template <class T, class Take>
__device__ __forceinline__ int window(const Moves& p, int i, Take take) {
    const int channel = i % p.channels, x = i / p.channels % p.out_width;
    const int line = i / p.channels / p.out_width, y = line % p.out_height, image = line / p.out_height;
    const int top = y * p.stride_y - p.padding, left = x * p.stride_x - p.padding;
    const int y_end = min(top + p.size_y, p.height), x_end = min(left + p.size_x, p.width);
    for (int row = max(top, 0); row < y_end; ++row)
        for (int column = max(left, 0); column < x_end; ++column)
            take(of<T>(p.x)[((image * p.height + row) * p.width + column) * p.channels + channel]);
    return (y_end - max(top, 0)) * (x_end - max(left, 0));
}

KERNEL(max_pool_f32, Moves, 256) {
    const int i = thread();
    if (i >= p.count) return;
    float most = __uint_as_float(0xff800000u);
    window<float>(p, i, [&](float x) { most = x > most || x != x ? x : most; });
    static_cast<float*>(p.out)[i] = most;
}
KERNEL(max_pool_i32, Moves, 256) {
    const int i = thread();
    if (i >= p.count) return;
    int most = -2147483647 - 1;
    window<int>(p, i, [&](int x) { most = x > most ? x : most; });
    static_cast<int*>(p.out)[i] = most;
}
KERNEL(max_pool_bits, Moves, 256) {
    const int i = thread();
    if (i >= p.count) return;
    u32 any = 0, every = ~0u;
    window<u32>(p, i, [&](u32 word) { any |= word, every &= word; });
    const u32 smallest = of<u32>(p.a)[i % p.channels];
    static_cast<u32*>(p.out)[i] = (any & ~smallest) | (every & smallest);
}
KERNEL(average_pool, Moves, 256) {
    const int i = thread();
    if (i >= p.count) return;
    float sum = 0.0f;
    const int entries = window<float>(p, i, [&](float x) { sum = __fadd_rn(sum, x); });
    static_cast<float*>(p.out)[i] = __fdiv_rn(sum, __int2float_rn(entries));
}

// The first channel of the largest value, one warp a row; nan counts as the largest, as in NumPy.
template <class T>
__device__ __forceinline__ bool before(T x, int i, T y, int j) {  // whether (x, i) is the answer rather than (y, j)
    if (x != x || y != y) return x != x && (y == y || i < j);
    return x > y || (x == y && i < j);
}
__device__ __forceinline__ u32 as_word(float x) { return __float_as_uint(x); }
__device__ __forceinline__ u32 as_word(int x) { return static_cast<u32>(x); }
__device__ __forceinline__ void from_word(u32 word, float& x) { x = __uint_as_float(word); }
__device__ __forceinline__ void from_word(u32 word, int& x) { x = static_cast<int>(word); }

template <int offset, class T>
__device__ __forceinline__ void better(T& value, int& index) {
    T other;
    from_word(shuffle_xor<offset>(as_word(value)), other);
    const int where = static_cast<int>(shuffle_xor<offset>(static_cast<u32>(index)));
    if (where >= 0 && (index < 0 || before(other, where, value, index))) value = other, index = where;
}

template <class T>
__device__ __forceinline__ void argmax(const Moves& p) {
    const int row = warp(), lane = threadIdx.x % 32;
    if (row >= p.count) return;
    const T* const x = of<T>(p.x) + static_cast<long long>(row) * p.channels;
    T value = 0;
    int index = -1;
    for (int i = lane; i < p.channels; i += 32)
        if (index < 0 || before(x[i], i, value, index)) value = x[i], index = i;
    better<1>(value, index);
    better<2>(value, index);
    better<4>(value, index);
    better<8>(value, index);
    better<16>(value, index);
    if (lane == 0) static_cast<int*>(p.out)[row] = index;
}
KERNEL(argmax_f32, Moves, 256) { argmax<float>(p); }
KERNEL(argmax_i32, Moves, 256) { argmax<int>(p); }
