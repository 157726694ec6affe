// The hot loops of low-rank descent on min <C, VV'>, rows of V of length 1: sweeps, gradients, quasi-Newton steps.
//
// A factor V is (rows, width), row-major, its width a multiple of 8 (of 16 in float32). Arrays do not overlap.
#pragma once

#include "dispatch.h"

namespace bitrelax {

// Pairs of a quasi-Newton method that are kept, and one more: the slot of the pair that is being tried.
constexpr int SLOTS = 6;

// A symmetric matrix with a zero diagonal: row-major entries, or compressed sparse rows where `starts` is not null.
template <class T>
struct Matrix {
    std::int64_t rows;
    const T* entries;
    const std::int32_t *starts, *columns;
};

// v_i <- -g_i / |g_i|, multipliers y_i <- -|g_i|, row after row; returned: the decrease of <C, VV'>.
template <class T>
struct Sweep {
    Matrix<T> off;
    std::int64_t width;
    T *factor, *multipliers;
};

// y_i = <g_i, v_i>, g = C V; gradient_i = (g_i - y_i v_i) / (scale root_i); the change of the gradient into the pair
// tried; and the gradient's inner products with all pairs. pairs: (rows, 2, SLOTS, width), steps before changes,
// as upper halves of float32 (bfloat16): a history is read twice an iteration, and need not be exact but consistent.
struct Gradient {
    Matrix<double> off;
    std::int64_t width;
    const double *factor, *root, *before;
    double *gradient, *multipliers;
    std::uint16_t* pairs;
    double scale;
    int tried;
    double* products;  // [SLOTS] with steps, [SLOTS] with changes
};

struct GradientSums {
    double multipliers, gradient, product, change;  // sum of y_i; squares of g - y v, of g, and of the change
};

// p = (by_gradient gradient + sum_j by_pairs[j] pairs[j]) / root, made tangent; moved = V + length p, normalised; the
// pair tried <- length p root. Returned: its inner product with the gradient.
struct Step {
    std::int64_t rows, width;
    const double *factor, *root, *gradient, *by_pairs;  // [2 SLOTS], steps before changes
    double by_gradient, length;
    double* moved;
    std::uint16_t* pairs;
    int tried;
};

#define BITRELAX_SWEEPS                     \
    double sweep(const Sweep<double>&);       \
    double sweep_single(const Sweep<float>&); \
    GradientSums gradient(const Gradient&);   \
    double step(const Step&);

namespace portable {
BITRELAX_SWEEPS
}
#ifdef BITRELAX_X86
namespace avx2 {
BITRELAX_SWEEPS
}
namespace avx512 {
BITRELAX_SWEEPS
}
#endif

}  // namespace bitrelax
