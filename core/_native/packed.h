// Kernels of a packed network besides the sums over bits (bitsum.h): sums over pixels and real values, and everything
// that packs, moves, pools and rescales. Compiled once a CPU level; the engine (packed_engine.h) calls them.
//
// Every pointer is to memory that the caller owns and has checked; outputs overlap nothing but where a comment says so.
// A row of pixels is `pixels` times `channels` numbers, or times words(channels) words of bits.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace bitrelax {

constexpr std::int64_t kLanes = 16;  // output channels side by side

// What becomes of a sum: itself, a bit, or a product and a sum in float32, rounded twice.
enum class After : int { sums = 0, bits = 1, affine = 2 };

// out[r][o] = sum_k x[r][k] w[o][k] for rows x of `taps` numbers and `blocks` of 16 outputs, of which `outputs` exist.
// Integer sums become bits by (s >= at[o]) != flip[o]; real ones are not asked to.
struct Panel {
    const void* rows;                 // uint8 or float32
    std::int64_t count, pitch, taps;  // pitch in numbers; taps of pixels are a multiple of 4
    const void* weights;  // pixels: u64 [blocks][taps / 4], bit 4 lane + tap; signs: u16 [blocks][taps]; real: f32
                          // [blocks][taps][16]
    std::int64_t blocks, outputs;
    After after;
    const std::int32_t* at;     // [16 blocks]
    const std::uint16_t* flip;  // [blocks]
    const float *scale, *bias;  // [16 blocks]
    char* const* out;           // where the outputs of each row begin; bits: whole words of 32
};

// Windows of one row of outputs over `height` source rows that lie inside; column ranges are cut here.
struct Pool {
    const void* source;            // first source row of the window
    std::int64_t rows, row_pitch;  // source rows that the window holds, and their distance in items
    std::int64_t columns, items;   // source columns, numbers or words a pixel
    std::int64_t outputs, size, stride, padding;
    const std::uint32_t* smallest;  // bits: [items]
    void* out;
};

struct PackedKernels {
    void (*panel_u8)(const Panel&);
    void (*panel_signs)(const Panel&);
    void (*panel_reals)(const Panel&);
    // bit = (x >= at[c]) and possible[c]: a threshold above 255 is impossible.
    void (*binarize_u8)(const std::uint8_t* x, std::int64_t pixels, std::int64_t channels, const std::uint8_t* at,
                        const std::uint32_t* possible, std::uint32_t* out);
    void (*binarize_f32)(const float* x, std::int64_t pixels, std::int64_t channels, const float* at,
                         std::uint32_t* out);
    void (*threshold)(const std::int32_t* x, std::int64_t pixels, std::int64_t channels, const std::int32_t* at,
                      const std::uint32_t* flip, std::uint32_t* out);
    void (*affine_i32)(const std::int32_t* x, std::int64_t pixels, std::int64_t channels, const float* scale,
                       const float* bias, float* out);
    void (*affine_f32)(const float* x, std::int64_t pixels, std::int64_t channels, const float* scale,
                       const float* bias, float* out);
    void (*floats_of_bits)(const std::uint32_t* x, std::int64_t pixels, std::int64_t channels, float* out);
    void (*floats_of_u8)(const std::uint8_t* x, std::int64_t count, float* out);
    void (*floats_of_i32)(const std::int32_t* x, std::int64_t count, float* out);
    void (*relu)(const float* x, std::int64_t count, float* out);
    void (*hard_tanh)(const float* x, std::int64_t count, float* out);
    void (*add_i32)(const std::int32_t* x, const std::int32_t* y, std::int64_t count, std::int32_t* out);
    void (*add_f32)(const float* x, const float* y, std::int64_t count, float* out);
    void (*pool_bits)(const Pool&);
    void (*pool_i32)(const Pool&);
    void (*pool_f32)(const Pool&);
    void (*pool_mean)(const Pool&);
};

namespace portable {
const PackedKernels& packed_kernels();
}
#ifdef BITRELAX_X86
namespace avx2 {
const PackedKernels& packed_kernels();
}
namespace avx512 {
const PackedKernels& packed_kernels();
}
#endif

#define BITRELAX_PACKED_PANELS      \
    void panel_u8(const Panel&);    \
    void panel_signs(const Panel&); \
    void panel_reals(const Panel&);
namespace portable {
BITRELAX_PACKED_PANELS
}
#ifdef BITRELAX_X86
namespace avx2 {
BITRELAX_PACKED_PANELS
}
namespace avx512 {
BITRELAX_PACKED_PANELS
}
#endif

}  // namespace bitrelax
