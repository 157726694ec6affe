// Element-wise mathematics of the kernels: float32, branch-free, so that a compiler turns loops of it into vectors.
//
// Only correctly rounded operations in a fixed order; fused multiply-adds where written and nowhere else. So all levels
// whose CPUs have them compute the same bits (portable x86 code has none, and differs in the last place). Everything is
// static, so that code compiled for one level is never linked into another.
#pragma once

#include "dispatch.h"

#define BITRELAX_INLINE static inline __attribute__((always_inline))
// Before a loop whose arrays do not overlap: spares the compiler run-time checks, of which it gives up on many.
// Before a short loop of constant length inside one: what it indexes then stays in registers.
#if defined(__clang__)
#define BITRELAX_VECTOR _Pragma("clang loop vectorize(assume_safety)")
#define BITRELAX_UNROLLED _Pragma("clang loop unroll(full)")
#else
#define BITRELAX_VECTOR _Pragma("GCC ivdep")
#define BITRELAX_UNROLLED _Pragma("GCC unroll 8")
#endif

namespace {

using bitrelax::Key;


BITRELAX_INLINE std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

BITRELAX_INLINE float float_of(std::uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

BITRELAX_INLINE float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

BITRELAX_INLINE float absolute(float x) { return float_of(bits_of(x) & 0x7fffffffu); }

// sign(0) = sign(-0) = +1.
BITRELAX_INLINE float sign_of(float x) { return x >= 0.0f ? 1.0f : -1.0f; }

BITRELAX_INLINE float clamped(float x, float bound) {
    x = x > bound ? bound : x;
    return x < -bound ? -bound : x;
}

// exp(x) to 2 units in the last place for |x| <= 87; beyond, the value at +-87 (never 0, infinite or denormal).
// Range reduction and coefficients: Cephes expf (Moshier).
BITRELAX_INLINE float exponential(float x) {
    x = clamped(x, 87.0f);
    const float shifted = multiply_add(x, 1.44269504f, 12582912.0f);  // 1.5 * 2^23: rounds to the nearest whole number
    const float whole = shifted - 12582912.0f;
    const float r = multiply_add(whole, 2.12194440e-4f, multiply_add(whole, -0.693359375f, x));
    // Pairs, not Horner's chain: the loop is bound by latency.
    const float square = r * r;
    const float high = multiply_add(1.9875691500e-4f, r, 1.3981999507e-3f);
    const float middle = multiply_add(8.3334519073e-3f, r, 4.1665795894e-2f);
    const float low = multiply_add(1.6666665459e-1f, r, 5.0000001201e-1f);
    const float tail = multiply_add(multiply_add(high, square, middle), square, low);
    const float y = multiply_add(tail, square, r) + 1.0f;
    return y * float_of((bits_of(shifted) << 23) + 0x3f800000u);
}

// log(x) for normal x > 0, to 2 units in the last place. Cephes logf (Moshier).
BITRELAX_INLINE float logarithm(float x) {
    const std::uint32_t bits = bits_of(x);
    const std::int32_t exponent = static_cast<std::int32_t>(bits - 0x3f3504f3u) >> 23;  // m in [sqrt(1/2), sqrt 2)
    const float m = float_of(bits - (static_cast<std::uint32_t>(exponent) << 23)) - 1.0f;
    const float e = static_cast<float>(exponent), square = m * m;
    const float fourth = square * square;
    const float a = multiply_add(-2.4999993993e-1f, m, 3.3333331174e-1f);
    const float b = multiply_add(-1.6668057665e-1f, m, 2.0000714765e-1f);
    const float c = multiply_add(-1.2420140846e-1f, m, 1.4249322787e-1f);
    const float d = multiply_add(-1.1514610310e-1f, m, 1.1676998740e-1f);
    const float top = multiply_add(7.0376836292e-2f, square, d);
    float y = multiply_add(multiply_add(top, square, c), fourth, multiply_add(b, square, a));
    y = multiply_add(-0.5f, square, multiply_add(y, m * square, e * -2.12194440e-4f));
    return multiply_add(e, 0.693359375f, m + y);
}

BITRELAX_INLINE std::uint32_t mixed(std::uint32_t h) {
    h = (h ^ (h >> 16)) * 0x7feb352du;
    h = (h ^ (h >> 15)) * 0x846ca68bu;
    return h ^ (h >> 16);
}

// 32 random bits: two rounds of a 32-bit mixer over index and key. The first word shifts the counter's orbit, the
// second is added between the rounds, so that keys whose orbits overlap still give unrelated bits.
BITRELAX_INLINE std::uint32_t random_bits(std::uint32_t index, Key key) {
    return mixed(mixed(index * 0x9e3779b9u + key.first) + key.second);
}

// A uniform draw u in (0, 1) as its smaller tail t = min(u, 1 - u), 31 bits, and the bit that says whether u is below
// 1/2: it is the tail whose digits matter.
struct Uniform {
    float tail;
    std::uint32_t below;  // the sign bit, set where u < 1/2
};

BITRELAX_INLINE Uniform uniform(std::uint32_t index, Key key) {
    const std::uint32_t h = random_bits(index, key);
    return {(static_cast<float>(static_cast<std::int32_t>(h & 0x7fffffffu)) + 0.5f) * 0x1p-32f, h & 0x80000000u};
}

// log(u / (1 - u)) / 2: a Logistic(0, 1/2) draw, at most 11.4 in size.
BITRELAX_INLINE float logistic(Uniform u) {
    const float size = 0.5f * logarithm((1.0f - u.tail) / u.tail);
    return float_of(bits_of(size) | u.below);
}

}  // namespace
