// The limit of the bit kernels on the core at hand: its clock, by additions that wait for each other, and the rate of
// each level's counting instructions with all operands in registers.
#include <chrono>
#include <cstdint>
#include <utility>

#include "bitsum.h"

#if defined(__AVX512VPOPCNTDQ__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace bitrelax::BITRELAX_LEVEL {
namespace {

constexpr int kTurns = 250, kSteps = 256, kTries = 25;

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

// Seconds of `run`, the fastest of a few: the core may be shared.
template <class Run>
double fastest(const Run& run) {
    using Clock = std::chrono::steady_clock;
    double best = 1e9;
    for (int i = 0; i < kTries; ++i) {
        const Clock::time_point start = Clock::now();
        run();
        const double spent = std::chrono::duration<double>(Clock::now() - start).count();
        if (spent < best) best = spent;
    }
    return best;
}

// step(0), step(1), ... step(n - 1), unrolled.
template <class Step, int... i>
inline void unrolled(const Step& step, std::integer_sequence<int, i...>) {
    (step(i), ...);
}

double clock_rate() {
    const double seconds = fastest([] {
        std::uint64_t sum = 0;
        for (int turn = 0; turn < kTurns; ++turn)
            unrolled(
                [&sum](int) {
                    ++sum;
                    touch(sum);  // else all would be one addition
                },
                std::make_integer_sequence<int, kSteps>{});
    });
    return double(kTurns) * kSteps / seconds;
}

double counts_a_second() {
    constexpr int sums = 8;  // independent, so that no step waits
    const double seconds = fastest([] {
        Register sum[sums], w = number(5), x = number(3);
        for (Register& one : sum) one = number(0);
        touch(w);
        for (int turn = 0; turn < kTurns; ++turn)
            unrolled(
                [&](int i) {
                    touch(x);  // else xor and count would be done once
                    sum[i % sums] = counted(sum[i % sums], w, x);
                    touch(sum[i % sums]);
                },
                std::make_integer_sequence<int, kSteps>{});
    });
    return double(kTurns) * kSteps / seconds;
}

}  // namespace

PackedLimits packed_limits() {
    const double clock = clock_rate();
    return {clock, kBits ? 2.0 * kBits * counts_a_second() / clock : 0.0};
}

}  // namespace bitrelax::BITRELAX_LEVEL
