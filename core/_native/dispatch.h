// Every kernel, once for each CPU level it is compiled for, and the choice between them at run time.
//
// A kernel file is compiled once a level, with BITRELAX_LEVEL naming the namespace (see CMakeLists.txt). Kernels take
// addresses of contiguous float32 arrays that do not overlap; core/native.py checks what it passes.
#pragma once

#include <cstdint>

namespace bitrelax {

enum class Level : int { portable = 0, avx2 = 1, avx512 = 2 };

// Two words that name one draw: the noise of entry i is a function of (key, i) and of nothing else.
struct Key {
    std::uint32_t first, second;
};

// Adam on a latent in [-bound, bound], then its sign. Bias corrections are folded into rate and root.
struct PointAdam {
    std::int64_t size;
    const float* gradient;
    float *latent, *first, *second, *weights;
    float rate, beta1, beta2, root, eps, bound;  // rate = lr / (1 - beta1^t), root = 1 / sqrt(1 - beta2^t)
};

// A flip rule on an average of gradients: Bop.
struct PointBop {
    std::int64_t size;
    const float* gradient;
    float *signs, *average;
    float adaptivity, threshold;
};

// Relaxed draws w = tanh(z / temperature), z = natural + noise, and with each the factor by which a step multiplies a
// gradient with respect to w: slope(z) / Fisher(natural). floor and damping are the published rule's.
struct BernoulliDraw {
    std::int64_t size;
    const float* natural;
    float *weights, *factor;
    Key key;
    float temperature, bound, floor, damping;  // |natural| <= bound
    bool published;
};

// A step of the Bayesian learning rule with the factors of the last draw, then the next draw (key, weights, factor).
// velocity and prior may be null: no momentum; the prior's natural parameter is 0.
struct BernoulliStep {
    BernoulliDraw next;
    const float *gradient, *prior;
    float *natural, *velocity;
    float scale, rate, momentum, decay;  // rate = lr / (1 - momentum^t)
};

// mean = tanh(natural), variance = sech^2(natural).
struct BernoulliMoments {
    std::int64_t size;
    const float* natural;
    float *mean, *variance;
};

// pulled = variance (by_mean - 2 mean by_variance): gradients by both moments to that by the natural parameter.
struct BernoulliPullBack {
    std::int64_t size;
    const float *mean, *variance, *by_mean, *by_variance;
    float* pulled;
};

// Signs of rows[0] + sum_k coefficients[k] rows[k + 1]; rows: (rank + 1, size).
struct LowRankDraw {
    std::int64_t size;
    int rank;
    const float *rows, *coefficients;
    float* weights;
};

// SGD with averaged momentum on the rows, the gradient of row k being gradient * used[k - 1] (used[-1] = 1).
struct LowRankStep {
    std::int64_t size;
    int rank;
    const float *gradient, *used, *coefficients;
    float *rows, *velocity, *weights;  // velocity may be null
    float scale, rate, momentum, decay;
    bool unit;  // rows of unit length: tangent projection before, normalisation after
};

#define BITRELAX_KERNELS                                 \
    void point_adam(const PointAdam&);                   \
    void point_bop(const PointBop&);                     \
    void bernoulli_draw(const BernoulliDraw&);           \
    void bernoulli_step(const BernoulliStep&);           \
    void bernoulli_moments(const BernoulliMoments&);     \
    void bernoulli_pull_back(const BernoulliPullBack&);  \
    void lowrank_draw(const LowRankDraw&);               \
    void lowrank_step(const LowRankStep&);

namespace portable {
BITRELAX_KERNELS
}
#ifdef BITRELAX_X86
namespace avx2 {
BITRELAX_KERNELS
}
namespace avx512 {
BITRELAX_KERNELS
}
#define BITRELAX_AT(level, kernel)                                    \
    ((level) == Level::avx512 ? avx512::kernel                        \
     : (level) == Level::avx2 ? avx2::kernel                          \
                              : portable::kernel)
#else
#define BITRELAX_AT(level, kernel) (portable::kernel)
#endif

// The best level of this CPU (and of the operating system, which must save the wide registers).
inline Level best_level() {
#ifdef BITRELAX_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return Level::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Level::avx2;
#endif
    return Level::portable;
}

}  // namespace bitrelax
