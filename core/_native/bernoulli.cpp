// Bernoulli laws: relaxed draws and the Bayesian learning rule (Meng, Bachmann & Khan 2020); pull-back, step and next
// draw in one pass. A draw leaves with each weight what its pull-back will need, so that noise is made once.

#include "elementwise.h"

namespace bitrelax::BITRELAX_LEVEL {

namespace {

struct Drawn {
    float weight, factor;
};

// What every entry of a draw shares.
struct Shared {
    float inverse, floor, damping;  // inverse = 1 / temperature
};

BITRELAX_INLINE float with_sign_of(float size, float z) { return float_of(bits_of(size) | (bits_of(z) & 0x80000000u)); }

// tanh(z / T), from r = exp(-2 |z| / T).
BITRELAX_INLINE float relaxed(float z, float r) { return with_sign_of((1.0f - r) / (1.0f + r), z); }

// The factor is [sech^2(z / T) / T] / sech^2(natural) without cancellation or overflow: exponents are subtracted before
// exp, and 1 / Fisher alone is never formed. Any temperature, any natural parameter.
BITRELAX_INLINE Drawn honest(Shared a, float natural, Uniform u) {
    const float z = natural + logistic(u), near = 2.0f * absolute(z) * a.inverse, far = 2.0f * absolute(natural);
    const float r = exponential(-near), e = exponential(-far), share = 1.0f / (1.0f + r);
    const float ratio = (1.0f + e) * share;
    return {with_sign_of((1.0f - r) * share, z), exponential(far - near) * a.inverse * (ratio * ratio)};
}

template <int n>
BITRELAX_INLINE float power(float x) {
    if constexpr (n == 1)
        return x;
    else if constexpr (n % 2 == 0)
        return power<n / 2>(x * x);
    else
        return x * power<n - 1>(x);
}

// The same for a temperature 1 / n, n whole, and |natural| <= 30: exp(-2 |z|) is a quotient of u, 1 - u and
// exp(-2 |natural|), and its n-th power needs no logarithm. 1 exp and 2 divisions in place of 3, 1 log and 2.
template <int n>
BITRELAX_INLINE Drawn powered(Shared, float natural, Uniform u) {
    const float e = exponential(-2.0f * absolute(natural)), rest = 1.0f - u.tail;
    float plus = u.below ? u.tail : rest, minus = u.below ? rest : u.tail;  // P(+1) : P(-1) as this draw sees them
    plus = natural >= 0.0f ? plus : plus * e;
    minus = natural >= 0.0f ? minus * e : minus;
    const float smaller = plus < minus ? plus : minus, larger = plus < minus ? minus : plus;
    const float r = power<n>(smaller / larger);
    const float joint = 1.0f / (e + e * r), share = joint * e, ratio = 1.0f + e;
    const float size = (1.0f - r) * share;
    return {plus < minus ? -size : size, (r * joint) * share * (ratio * ratio) * static_cast<float>(n)};
}

// (1 - w^2 + floor) / T / (1 - mean^2 + damping), both differences in float32, as in the released code.
BITRELAX_INLINE Drawn published(Shared a, float natural, Uniform u) {
    const float z = natural + logistic(u);
    const float weight = relaxed(z, exponential(-2.0f * absolute(z) * a.inverse));
    const float mean = relaxed(natural, exponential(-2.0f * absolute(natural)));
    return {weight, (((1.0f - weight * weight) + a.floor) * a.inverse) / ((1.0f - mean * mean) + a.damping)};
}

using Rule = Drawn (*)(Shared, float, Uniform);

template <Rule rule>
void draw(const BernoulliDraw& a) {
    const float *__restrict natural = a.natural;
    float *__restrict weights = a.weights, *__restrict factor = a.factor;
    const Shared shared{1.0f / a.temperature, a.floor, a.damping};
    const Key key = a.key;
    BITRELAX_VECTOR
    for (std::int64_t i = 0; i < a.size; ++i) {
        const Drawn drawn = rule(shared, natural[i], uniform(static_cast<std::uint32_t>(i), key));
        weights[i] = drawn.weight;
        factor[i] = drawn.factor;
    }
}

template <Rule rule, bool averaged, bool anchored>
void step(const BernoulliStep& a) {
    const float *__restrict gradient = a.gradient, *__restrict prior = a.prior;
    float *__restrict natural = a.natural, *__restrict velocity = a.velocity;
    float *__restrict weights = a.next.weights, *__restrict factor = a.next.factor;
    const Shared shared{1.0f / a.next.temperature, a.next.floor, a.next.damping};
    const Key key = a.next.key;
    const float scale = a.scale, rate = a.rate, momentum = a.momentum, rest = 1.0f - a.momentum, decay = a.decay;
    const float bound = a.next.bound;
    const std::int64_t size = a.next.size;
    BITRELAX_VECTOR
    for (std::int64_t i = 0; i < size; ++i) {
        const float old = natural[i], offset = anchored ? old - prior[i] : old;
        float direction = multiply_add(gradient[i] * scale, factor[i], decay * offset);
        if (averaged) {
            direction = multiply_add(velocity[i], momentum, rest * direction);
            velocity[i] = direction;
        }
        const float moved = clamped(multiply_add(-rate, direction, old), bound);
        natural[i] = moved;
        const Drawn drawn = rule(shared, moved, uniform(static_cast<std::uint32_t>(i), key));
        weights[i] = drawn.weight;
        factor[i] = drawn.factor;
    }
}

template <Rule rule>
struct By {
    static void draws(const BernoulliDraw& a) { draw<rule>(a); }
    static void steps(const BernoulliStep& a) {
        if (a.velocity && a.prior) return step<rule, true, true>(a);
        if (a.velocity) return step<rule, true, false>(a);
        if (a.prior) return step<rule, false, true>(a);
        return step<rule, false, false>(a);
    }
};

// The rule is a function of what a draw and the step before it share, so that both give the same bits.
template <class Use>
void with_rule(const BernoulliDraw& a, Use use) {
    if (a.published) return use(By<published>{});
    if (a.bound <= 30.0f && a.temperature == 1.0f) return use(By<powered<1>>{});
    if (a.bound <= 30.0f && a.temperature == 0.5f) return use(By<powered<2>>{});
    if (a.bound <= 30.0f && a.temperature == 0.2f) return use(By<powered<5>>{});
    if (a.bound <= 30.0f && a.temperature == 0.1f) return use(By<powered<10>>{});
    return use(By<honest>{});
}

}  // namespace

void bernoulli_moments(const BernoulliMoments& a) {
    const float* __restrict natural = a.natural;
    float *__restrict mean = a.mean, *__restrict variance = a.variance;
    BITRELAX_VECTOR
    for (std::int64_t i = 0; i < a.size; ++i) {
        const float size = absolute(natural[i]), power = exponential(-2.0f * size);
        const float t = size > 43.5f ? 0.0f : power, inverse = 1.0f / (1.0f + t);  // no denormals: certain is variance 0
        mean[i] = with_sign_of((1.0f - t) * inverse, natural[i]);
        variance[i] = 4.0f * t * inverse * inverse;
    }
}

void bernoulli_pull_back(const BernoulliPullBack& a) {
    const float *__restrict mean = a.mean, *__restrict variance = a.variance;
    const float *__restrict by_mean = a.by_mean, *__restrict by_variance = a.by_variance;
    float* __restrict pulled = a.pulled;
    BITRELAX_VECTOR
    for (std::int64_t i = 0; i < a.size; ++i)
        pulled[i] = variance[i] * multiply_add(-2.0f * mean[i], by_variance[i], by_mean[i]);
}

void bernoulli_draw(const BernoulliDraw& a) {
    with_rule(a, [&](auto rule) { rule.draws(a); });
}

void bernoulli_step(const BernoulliStep& a) {
    with_rule(a.next, [&](auto rule) { rule.steps(a); });
}

}  // namespace bitrelax::BITRELAX_LEVEL
