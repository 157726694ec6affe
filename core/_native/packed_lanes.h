// Sixteen output channels side by side, in the widest registers of a CPU level: sums of pixels and of real values.
//
// Order of summation is that of the taps, for every channel and at every level; so a sum does not depend on how many
// rows are computed together, and sums of signed values are equal at all levels: a product with -1 or +1 rounds
// nothing.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace bitrelax {
namespace BITRELAX_LEVEL {

inline std::int32_t four_pixels(const std::uint8_t* x) {
    std::int32_t word;
    std::memcpy(&word, x, 4);
    return word;
}

#if defined(__AVX512F__)

constexpr int kMostRows = 8;
constexpr int kMostBlocks = 2;

struct Pixels {  // int32 sums of pixels times signs
    using Number = std::uint8_t;
    using Sum = std::int32_t;
    using Weights = __m512i;
    static constexpr std::int64_t kStep = 4, kStride = 1;  // taps a step, words of weights a step
    using Word = std::uint64_t;
    __m512i sums = _mm512_setzero_si512();
    static Weights weights(const Word* at) {
        return _mm512_mask_blend_epi8(*at, _mm512_set1_epi8(-1), _mm512_set1_epi8(1));
    }
    void add(const Number* x, const Weights& w) {
        sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(four_pixels(x)), w);
    }
    void store(Sum* to) const { _mm512_storeu_si512(to, sums); }
    std::uint32_t at_least(const Sum* least) const {  // a bit a lane
        return _mm512_cmp_epi32_mask(sums, _mm512_loadu_si512(least), _MM_CMPINT_NLT);
    }
};

struct RealSums {
    using Number = float;
    using Sum = float;
    using Weights = __m512;
    static constexpr std::int64_t kStep = 1;
    __m512 sums = _mm512_setzero_ps();
    void add(const float* x, const Weights& w) { sums = _mm512_fmadd_ps(_mm512_set1_ps(*x), w, sums); }
    void store(float* to) const { _mm512_storeu_ps(to, sums); }
};

struct Signs : RealSums {
    using Word = std::uint16_t;
    static constexpr std::int64_t kStride = 1;
    static Weights weights(const Word* at) {
        return _mm512_mask_blend_ps(*at, _mm512_set1_ps(-1.0f), _mm512_set1_ps(1.0f));
    }
};

struct Reals : RealSums {
    using Word = float;
    static constexpr std::int64_t kStride = 16;
    static Weights weights(const Word* at) { return _mm512_loadu_ps(at); }
};

#elif defined(__AVX2__)

constexpr int kMostRows = 4;
constexpr int kMostBlocks = 1;

struct Pixels {
    using Number = std::uint8_t;
    using Sum = std::int32_t;
    struct Weights {
        __m256i low, high;
    };
    static constexpr std::int64_t kStep = 4, kStride = 1;
    using Word = std::uint64_t;
    __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();

    static __m256i expand(std::uint32_t bits) {  // byte i: +1 where bit i is set, else -1
        const __m256i place =
            _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        const __m256i bit = _mm256_set1_epi64x(static_cast<std::int64_t>(0x8040201008040201));
        const __m256i own =
            _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), place), bit);
        return _mm256_or_si256(_mm256_cmpeq_epi8(own, _mm256_setzero_si256()), _mm256_set1_epi8(1));
    }
    static Weights weights(const Word* at) {
        return {expand(static_cast<std::uint32_t>(*at)), expand(static_cast<std::uint32_t>(*at >> 32))};
    }
    void add(const Number* x, const Weights& w) {
        const __m256i pixels = _mm256_set1_epi32(four_pixels(x)), ones = _mm256_set1_epi16(1);
        low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_maddubs_epi16(pixels, w.low), ones));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_maddubs_epi16(pixels, w.high), ones));
    }
    void store(Sum* to) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), low);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), high);
    }
    static std::uint32_t below(__m256i sums, const Sum* least) {
        const __m256i bounds = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(least));
        return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(bounds, sums))));
    }
    std::uint32_t at_least(const Sum* least) const {
        return 0xffffu ^ (below(low, least) | below(high, least + 8) << 8);
    }
};

struct RealSums {
    using Number = float;
    using Sum = float;
    struct Weights {
        __m256 low, high;
    };
    static constexpr std::int64_t kStep = 1;
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    void add(const float* x, const Weights& w) {
        const __m256 number = _mm256_broadcast_ss(x);
        low = _mm256_fmadd_ps(number, w.low, low);
        high = _mm256_fmadd_ps(number, w.high, high);
    }
    void store(float* to) const {
        _mm256_storeu_ps(to, low);
        _mm256_storeu_ps(to + 8, high);
    }
};

struct Signs : RealSums {
    using Word = std::uint16_t;
    static constexpr std::int64_t kStride = 1;
    static Weights weights(const Word* at) {
        const __m256i bits = _mm256_set1_epi32(*at), minus = _mm256_set1_epi32(static_cast<int>(0x80000000u));
        // lane i's bit moves to the place of the sign; inverted, for 1 is +1
        const __m256i low = _mm256_sllv_epi32(bits, _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24));
        const __m256i high = _mm256_sllv_epi32(bits, _mm256_setr_epi32(23, 22, 21, 20, 19, 18, 17, 16));
        const __m256 one = _mm256_set1_ps(1.0f);
        return {_mm256_or_ps(one, _mm256_castsi256_ps(_mm256_andnot_si256(low, minus))),
                _mm256_or_ps(one, _mm256_castsi256_ps(_mm256_andnot_si256(high, minus)))};
    }
};

struct Reals : RealSums {
    using Word = float;
    static constexpr std::int64_t kStride = 16;
    static Weights weights(const Word* at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
};

#else

// Vectors of 16 bytes, which every CPU of the portable level has (SSE2, NEON); the compiler splits them elsewhere.
using Eight = std::int16_t __attribute__((vector_size(16)));
using Four = std::int32_t __attribute__((vector_size(16)));
using Floats = float __attribute__((vector_size(16)));

#if defined(__clang__)
#define BITRELAX_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define BITRELAX_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Eight{__VA_ARGS__})
#endif

constexpr int kMostRows = 2;
constexpr int kMostBlocks = 1;

struct Pixels {
    using Number = std::uint8_t;
    using Sum = std::int32_t;
    struct Weights {
        Eight taps[4][2];
    };
    static constexpr std::int64_t kStep = 4, kStride = 1;
    using Word = std::uint64_t;
    Four sums[4] = {};

    static Weights weights(const Word* at) {
        Weights w;
        for (int half = 0; half < 2; ++half) {
            const auto low = static_cast<std::int16_t>(*at >> (32 * half));
            const auto high = static_cast<std::int16_t>(*at >> (32 * half + 16));
            const Eight bits = {low, low, low, low, high, high, high, high};
            for (int tap = 0; tap < 4; ++tap) {
                const auto last = static_cast<std::int16_t>(0x1000u << tap);
                const auto a = static_cast<std::int16_t>(1 << tap), b = static_cast<std::int16_t>(16 << tap),
                           c = static_cast<std::int16_t>(256 << tap);
                w.taps[tap][half] = -1 - 2 * ((bits & Eight{a, b, c, last, a, b, c, last}) != 0);  // true is -1
            }
        }
        return w;
    }
    void add(const Number* x, const Weights& w) {
        for (int half = 0; half < 2; ++half) {
            Eight four = w.taps[0][half] * x[0];  // at most 4 x 255
            for (int tap = 1; tap < 4; ++tap) four += w.taps[tap][half] * x[tap];
            const Eight sign = four < 0;  // the upper halves of the numbers in 32 bits
            sums[2 * half] += reinterpret_cast<Four>(BITRELAX_SHUFFLE(four, sign, 0, 8, 1, 9, 2, 10, 3, 11));
            sums[2 * half + 1] += reinterpret_cast<Four>(BITRELAX_SHUFFLE(four, sign, 4, 12, 5, 13, 6, 14, 7, 15));
        }
    }
    void store(Sum* to) const { std::memcpy(to, sums, sizeof sums); }
    std::uint32_t at_least(const Sum* least) const {
        Sum stored[16];
        store(stored);
        std::uint32_t bits = 0;
        for (int lane = 0; lane < 16; ++lane) bits |= static_cast<std::uint32_t>(stored[lane] >= least[lane]) << lane;
        return bits;
    }
};

struct RealSums {
    using Number = float;
    using Sum = float;
    struct Weights {
        Floats lanes[4];
    };
    static constexpr std::int64_t kStep = 1;
    Floats sums[4] = {};
    void add(const float* x, const Weights& w) {
        for (int i = 0; i < 4; ++i) sums[i] += *x * w.lanes[i];
    }
    void store(float* to) const { std::memcpy(to, sums, sizeof sums); }
};

struct Signs : RealSums {
    using Word = std::uint16_t;
    static constexpr std::int64_t kStride = 1;
    static Weights weights(const Word* at) {
        Weights w;
        const std::int32_t bits = *at;
        for (int i = 0; i < 4; ++i) {
            const Four set = (Four{bits, bits, bits, bits} & Four{1 << 4 * i, 2 << 4 * i, 4 << 4 * i, 8 << 4 * i}) != 0;
            w.lanes[i] = -1.0f - 2.0f * __builtin_convertvector(set, Floats);
        }
        return w;
    }
};

struct Reals : RealSums {
    using Word = float;
    static constexpr std::int64_t kStride = 16;
    static Weights weights(const Word* at) {
        Weights w;
        std::memcpy(w.lanes, at, sizeof w.lanes);
        return w;
    }
};

#endif

}  // namespace BITRELAX_LEVEL
}  // namespace bitrelax
