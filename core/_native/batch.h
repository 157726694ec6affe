// L-BFGS on the factors of many problems min <V, off V> - 2 <linear, V e_1> over unit rows that share one matrix.
#pragma once

#include "dispatch.h"

namespace bitrelax {

// State of T problems of n rows. Factors have `width` columns, a multiple of 8, those beyond the rank zero.
struct Batch {
    std::int64_t n, width, memory;
    const double* off;               // (n, n), symmetric, zero diagonal
    const double* linear;            // (T, n)
    double *V, *tangent;             // (T, n, width): rows of length 1; off V - linear e_1' less its part along V
    double* multipliers;             // (T, n + 1): y_i, the homogenising row last
    double* inverse;                 // (T, n): gradients are multiplied by it, steps divided
    double* history;                 // (T, 2 memory, n, width): steps, then differences of gradients, scaled
    double* inner;                   // (T, 2 memory, 2 memory): their inner products
    std::uint8_t* valid;             // (T, memory)
    double *step, *value, *residual;  // (T)
};

#define BITRELAX_BATCH_KERNELS                                                                                  \
    /* value, tangent, multipliers and residual of each of the tasks, at its V */                               \
    void batch_evaluate(const Batch&, const std::int64_t* tasks, std::int64_t count);                           \
    /* iterations `first` to `first + iterations` - 1 of each of the tasks */                                   \
    void batch_descend(const Batch&, const std::int64_t* tasks, std::int64_t count, std::int64_t first,         \
                       std::int64_t iterations);

namespace portable {
BITRELAX_BATCH_KERNELS
}
#ifdef BITRELAX_X86
namespace avx2 {
BITRELAX_BATCH_KERNELS
}
namespace avx512 {
BITRELAX_BATCH_KERNELS
}
#endif

}  // namespace bitrelax
