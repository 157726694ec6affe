// The limit of the bit kernels on the core at hand: its clock, by additions that wait for each other, and the rate of
// each level's counting instructions with all operands in registers.
#include <chrono>
#include <cstdint>

#include "bitsum.h"

#if defined(__AVX512VPOPCNTDQ__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace bitrelax::BITRELAX_LEVEL {
namespace {

constexpr int kTurns = 4000, kTries = 25, kCounts = 8;

// One counting step, sum += count(w xor x), and how many bits it counts.
#if defined(__AVX512VPOPCNTDQ__)
using Register = __m512i;
constexpr int kBits = 512;
inline Register counted(Register sum, Register w, Register x) {
    return _mm512_add_epi32(sum, _mm512_popcnt_epi32(_mm512_xor_si512(w, x)));
}
inline Register number(int k) { return _mm512_set1_epi32(k); }
#elif defined(__AVX2__)
using Register = __m256i;
constexpr int kBits = 128;  // one of the two nibbles of each byte
inline Register counted(Register sum, Register w, Register x) {
    const Register table = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    return _mm256_add_epi8(sum, _mm256_shuffle_epi8(table, _mm256_xor_si256(w, x)));
}
inline Register number(int k) { return _mm256_set1_epi32(k); }
#elif defined(__ARM_NEON)
using Register = uint8x16_t;
constexpr int kBits = 128;
inline Register counted(Register sum, Register w, Register x) { return vaddq_u8(sum, vcntq_u8(veorq_u8(w, x))); }
inline Register number(int k) { return vdupq_n_u8(static_cast<std::uint8_t>(k)); }
#else
using Register = std::uint32_t;
constexpr int kBits = 0;  // no instruction counts
inline Register counted(Register sum, Register, Register) { return sum; }
inline Register number(int k) { return static_cast<Register>(k); }
#endif

// The compiler takes x to be read and changed here, in whichever register it is.
template <class Any>
inline void touch(Any& x) {
    if constexpr (sizeof(Any) <= 8) {
        asm volatile("" : "+r"(x));
    } else {
#if defined(__AVX512VPOPCNTDQ__)
        asm volatile("" : "+v"(x));
#elif defined(__AVX2__)
        asm volatile("" : "+x"(x));
#elif defined(__ARM_NEON)
        asm volatile("" : "+w"(x));
#endif
    }
}

// Seconds of a turn, in the fastest of a few tries: the core may be shared.
template <class Turn>
double fastest(const Turn& turn) {
    using Clock = std::chrono::steady_clock;
    double best = 1e9;
    for (int i = 0; i < kTries; ++i) {
        const Clock::time_point start = Clock::now();
        for (int t = 0; t < kTurns; ++t) turn();
        const double spent = std::chrono::duration<double>(Clock::now() - start).count() / kTurns;
        if (spent < best) best = spent;
    }
    return best;
}

double clock_rate() {
    constexpr int additions = 64;
    std::uint64_t sum = 0;
    return additions / fastest([&sum] {
        for (int i = 0; i < additions; ++i) {
            ++sum;
            touch(sum);  // else they would be one addition
        }
    });
}

double counts_a_second() {
    constexpr int repeats = 8;
    Register sums[kCounts], w[kCounts], x = number(3);
    for (int i = 0; i < kCounts; ++i) sums[i] = number(0), w[i] = number(i);
    const double seconds = fastest([&] {
        for (int repeat = 0; repeat < repeats; ++repeat) {
            touch(x);  // else xor and count would be done once
            for (int i = 0; i < kCounts; ++i) sums[i] = counted(sums[i], w[i], x);
        }
    });
    for (Register& sum : sums) touch(sum);
    return repeats * kCounts / seconds;
}

}  // namespace

PackedLimits packed_limits() {
    const double clock = clock_rate();
    return {clock, kBits ? 2.0 * kBits * counts_a_second() / clock : 0.0};
}

}  // namespace bitrelax::BITRELAX_LEVEL
