// Point laws: Adam with clipping and sign (BinaryConnect), and Bop's flips. One pass over the parameters.

#include "elementwise.h"

namespace bitrelax::BITRELAX_LEVEL {

void point_adam(const PointAdam& a) {
    const float *__restrict gradient = a.gradient;
    float *__restrict latent = a.latent, *__restrict first = a.first, *__restrict second = a.second;
    float *__restrict weights = a.weights;
    const float rate = a.rate, beta1 = a.beta1, beta2 = a.beta2, root = a.root, eps = a.eps, bound = a.bound;
    const float rest1 = 1.0f - beta1, rest2 = 1.0f - beta2;
    BITRELAX_VECTOR
    for (std::int64_t i = 0; i < a.size; ++i) {
        const float g = gradient[i];
        const float m = multiply_add(first[i], beta1, rest1 * g);
        const float v = multiply_add(second[i], beta2, rest2 * (g * g));
        const float moved = clamped(latent[i] - rate * m / multiply_add(__builtin_sqrtf(v), root, eps), bound);
        first[i] = m;
        second[i] = v;
        latent[i] = moved;
        weights[i] = sign_of(moved);
    }
}

void point_bop(const PointBop& a) {
    const float *__restrict gradient = a.gradient;
    float *__restrict signs = a.signs, *__restrict average = a.average;
    BITRELAX_VECTOR
    for (std::int64_t i = 0; i < a.size; ++i) {
        const float m = multiply_add(a.adaptivity, gradient[i] - average[i], average[i]);
        average[i] = m;
        signs[i] = m * signs[i] > a.threshold ? -signs[i] : signs[i];
    }
}

}  // namespace bitrelax::BITRELAX_LEVEL
