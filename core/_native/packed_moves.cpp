// What lies between sums: packing signs into words, thresholds, affine maps, pooling, and the table of all kernels.
#include <algorithm>
#include <cstring>

#include "packed.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace bitrelax {
namespace BITRELAX_LEVEL {
namespace {

constexpr std::int64_t kWord = 32;

inline std::int64_t words(std::int64_t channels) { return (channels + kWord - 1) / kWord; }

// Bits of numbers by `bit(c)`, into whole words; the last one is padded with 0.
template <class Bit>
inline std::uint32_t word_of(std::int64_t first, std::int64_t count, const Bit& bit) {
    std::uint32_t word = 0;
    for (std::int64_t c = 0; c < count; ++c) word |= static_cast<std::uint32_t>(bit(first + c)) << c;
    return word;
}

inline std::uint32_t at_least(const std::uint8_t* x, const std::uint8_t* at) {  // 32 of them
#if defined(__AVX512F__)
    return _mm256_cmp_epu8_mask(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)),
                                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), _MM_CMPINT_NLT);
#elif defined(__AVX2__)
    const __m256i pixels = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    const __m256i least = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    return static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(pixels, least), pixels)));
#else
    return word_of(0, kWord, [&](std::int64_t c) { return x[c] >= at[c]; });
#endif
}

inline std::uint32_t at_least(const float* x, const float* at) {  // nan is not
#if defined(__AVX512F__)
    const std::uint32_t low = _mm512_cmp_ps_mask(_mm512_loadu_ps(x), _mm512_loadu_ps(at), _CMP_GE_OQ);
    const std::uint32_t high = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(at + 16), _CMP_GE_OQ);
    return low | high << 16;
#elif defined(__AVX2__)
    std::uint32_t word = 0;
    for (int i = 0; i < 4; ++i) {
        const __m256 greater = _mm256_cmp_ps(_mm256_loadu_ps(x + 8 * i), _mm256_loadu_ps(at + 8 * i), _CMP_GE_OQ);
        word |= static_cast<std::uint32_t>(_mm256_movemask_ps(greater)) << (8 * i);
    }
    return word;
#else
    return word_of(0, kWord, [&](std::int64_t c) { return x[c] >= at[c]; });
#endif
}

inline std::uint32_t at_least(const std::int32_t* x, const std::int32_t* at) {
#if defined(__AVX512F__)
    const std::uint32_t low = _mm512_cmp_epi32_mask(_mm512_loadu_si512(x), _mm512_loadu_si512(at), _MM_CMPINT_NLT);
    const std::uint32_t high =
        _mm512_cmp_epi32_mask(_mm512_loadu_si512(x + 16), _mm512_loadu_si512(at + 16), _MM_CMPINT_NLT);
    return low | high << 16;
#elif defined(__AVX2__)
    std::uint32_t less = 0;
    for (int i = 0; i < 4; ++i) {
        const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 8 * i));
        const __m256i least = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 8 * i));
        const __m256 below = _mm256_castsi256_ps(_mm256_cmpgt_epi32(least, sums));
        less |= static_cast<std::uint32_t>(_mm256_movemask_ps(below)) << (8 * i);
    }
    return ~less;
#else
    return word_of(0, kWord, [&](std::int64_t c) { return x[c] >= at[c]; });
#endif
}

// Every pixel's numbers compared with at[c]; `last` changes each word before it is written.
template <class Number, class Last>
void compare(const Number* x, std::int64_t pixels, std::int64_t channels, const Number* at, std::uint32_t* out,
             const Last& last) {
    const std::int64_t whole = channels / kWord, rest = channels % kWord;
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel, x += channels, out += words(channels)) {
        for (std::int64_t w = 0; w < whole; ++w) out[w] = last(at_least(x + w * kWord, at + w * kWord), w);
        if (rest) out[whole] = last(word_of(whole * kWord, rest, [&](std::int64_t c) { return x[c] >= at[c]; }), whole);
    }
}

void binarize_u8(const std::uint8_t* x, std::int64_t pixels, std::int64_t channels, const std::uint8_t* at,
                 const std::uint32_t* possible, std::uint32_t* out) {
    compare(x, pixels, channels, at, out, [&](std::uint32_t bits, std::int64_t w) { return bits & possible[w]; });
}

void binarize_f32(const float* x, std::int64_t pixels, std::int64_t channels, const float* at, std::uint32_t* out) {
    compare(x, pixels, channels, at, out, [](std::uint32_t bits, std::int64_t) { return bits; });
}

void threshold(const std::int32_t* x, std::int64_t pixels, std::int64_t channels, const std::int32_t* at,
               const std::uint32_t* flip, std::uint32_t* out) {
    compare(x, pixels, channels, at, out, [&](std::uint32_t bits, std::int64_t w) { return bits ^ flip[w]; });
}

template <class Number>
void affine(const Number* x, std::int64_t pixels, std::int64_t channels, const float* scale, const float* bias,
            float* out) {
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel, x += channels, out += channels)
        for (std::int64_t c = 0; c < channels; ++c) out[c] = static_cast<float>(x[c]) * scale[c] + bias[c];
}

void floats_of_bits(const std::uint32_t* x, std::int64_t pixels, std::int64_t channels, float* out) {
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel, x += words(channels), out += channels)
        for (std::int64_t c = 0; c < channels; ++c)
            out[c] = static_cast<float>(static_cast<int>(2 * (x[c / kWord] >> (c % kWord) & 1)) - 1);
}

template <class Number>
void floats_of(const Number* x, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(x[i]);
}

void relu(const float* x, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = x[i] <= 0.0f ? 0.0f : x[i];
}

void hard_tanh(const float* x, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; ++i) {
        const float above = x[i] < -1.0f ? -1.0f : x[i];  // nan stays
        out[i] = above > 1.0f ? 1.0f : above;
    }
}

void add_i32(const std::int32_t* x, const std::int32_t* y, std::int64_t count, std::int32_t* out) {
    for (std::int64_t i = 0; i < count; ++i)  // wraps, as NumPy's does
        out[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(x[i]) + static_cast<std::uint32_t>(y[i]));
}

void add_f32(const float* x, const float* y, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = x[i] + y[i];
}

// The source columns [first, last) of each window: fold(into, pixel) over them, row by row.
template <class Number, class Start, class Fold, class End>
void windows(const Pool& p, const Start& start, const Fold& fold, const End& end) {
    const auto* source = static_cast<const Number*>(p.source);
    auto* out = static_cast<Number*>(p.out);
    for (std::int64_t x = 0; x < p.outputs; ++x, out += p.items) {
        const std::int64_t left = x * p.stride - p.padding;
        const std::int64_t first = std::max<std::int64_t>(left, 0), last = std::min(left + p.size, p.columns);
        start(out, source + first * p.items);
        for (std::int64_t row = 0; row < p.rows; ++row)
            for (std::int64_t column = first + (row == 0); column < last; ++column)
                fold(out, source + row * p.row_pitch + column * p.items);
        end(out, p.rows * (last - first));
    }
}

template <class Number>
void pool_largest(const Pool& p) {
    const auto copy = [&](Number* out, const Number* pixel) {
        std::memcpy(out, pixel, static_cast<std::size_t>(p.items) * sizeof(Number));
    };
    const auto larger = [&](Number* out, const Number* pixel) {
        for (std::int64_t c = 0; c < p.items; ++c)
            out[c] = pixel[c] > out[c] || pixel[c] != pixel[c] ? pixel[c] : out[c];  // nan stays
    };
    windows<Number>(p, copy, larger, [](Number*, std::int64_t) {});
}

void pool_mean(const Pool& p) {
    const auto from_zero = [&](float* out, const float* pixel) {
        for (std::int64_t c = 0; c < p.items; ++c) out[c] = 0.0f + pixel[c];  // 0 where all are -0, as in NumPy
    };
    const auto sum = [&](float* out, const float* pixel) {
        for (std::int64_t c = 0; c < p.items; ++c) out[c] += pixel[c];
    };
    const auto divide = [&](float* out, std::int64_t count) {
        for (std::int64_t c = 0; c < p.items; ++c) out[c] /= static_cast<float>(count);
    };
    windows<float>(p, from_zero, sum, divide);
}

// Or, and `and` where smallest has a 1: by De Morgan the or of inverted bits, inverted.
void pool_bits(const Pool& p) {
    const std::uint32_t* smallest = p.smallest;
    const auto copy = [&](std::uint32_t* out, const std::uint32_t* pixel) {
        for (std::int64_t w = 0; w < p.items; ++w) out[w] = pixel[w] ^ smallest[w];
    };
    const auto any = [&](std::uint32_t* out, const std::uint32_t* pixel) {
        for (std::int64_t w = 0; w < p.items; ++w) out[w] |= pixel[w] ^ smallest[w];
    };
    const auto invert = [&](std::uint32_t* out, std::int64_t) {
        for (std::int64_t w = 0; w < p.items; ++w) out[w] ^= smallest[w];
    };
    windows<std::uint32_t>(p, copy, any, invert);
}

}  // namespace

const PackedKernels& packed_kernels() {
    static const PackedKernels kernels = {panel_u8,
                                          panel_signs,
                                          panel_reals,
                                          binarize_u8,
                                          binarize_f32,
                                          threshold,
                                          affine<std::int32_t>,
                                          affine<float>,
                                          floats_of_bits,
                                          floats_of<std::uint8_t>,
                                          floats_of<std::int32_t>,
                                          relu,
                                          hard_tanh,
                                          add_i32,
                                          add_f32,
                                          pool_bits,
                                          pool_largest<std::int32_t>,
                                          pool_largest<float>,
                                          pool_mean};
    return kernels;
}

}  // namespace BITRELAX_LEVEL
}  // namespace bitrelax
